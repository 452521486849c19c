"""The benchmark of base-crafted attacks: inputs made on a base network, replayed on its pruned versions.

From the file (`spec`) to networks (`schemes`), inputs (`craft`), kept stages (`bench`), statistics
(`metrics`), rows (`results`), tables and pictures, and MLflow. `run` does it all; it goes on after a kill.
"""
