"""Attacks that know the gate, as torchattacks attacks; their union; the slow-down attack.

`tier_attacks` lists the attacks of a tier, `break_samples` runs them, `slow_down` attacks the cost. The
attacks work on any `GatedEnsemble`, whatever its members, combiner and stop rule, and on plain networks.
"""

from eed_search.evaluation.attacks.base import Climber, NamedAttack, TeamAttack
from eed_search.evaluation.attacks.fab import BoundaryAttack
from eed_search.evaluation.attacks.objectives import AllPrefixes, Expected, MemberLosses, Prefix, Route, Transfer
from eed_search.evaluation.attacks.ray_s import RayS
from eed_search.evaluation.attacks.slow_down import SlowDown, slow_down
from eed_search.evaluation.attacks.square import Square
from eed_search.evaluation.attacks.suite import UnionResult, break_samples, tier_attacks

__all__ = [
    "AllPrefixes",
    "BoundaryAttack",
    "Climber",
    "Expected",
    "MemberLosses",
    "NamedAttack",
    "Prefix",
    "RayS",
    "Route",
    "SlowDown",
    "Square",
    "TeamAttack",
    "Transfer",
    "UnionResult",
    "break_samples",
    "slow_down",
    "tier_attacks",
]
