"""The stages of a trial: each a pure function of its settings, what it is made from, and a seed.

Each asks the store first, so trials share whatever they have in common. `stage` says what a stage is and lists all of them,
`context` what all of a search's need; `training`, `robustness`, `latency` and `team` hold them.
"""
