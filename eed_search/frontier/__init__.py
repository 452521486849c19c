"""From a run's view to its frontier: points, dominance, how sure each one is, and what may be claimed of it."""
