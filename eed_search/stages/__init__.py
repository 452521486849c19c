"""The stages of a trial: each a pure function of its settings, what it is made from, and a seed.

    base → scores → member → (own attack) → team → judgement, slowdown;  architecture → latency

Each asks the store first, so trials share whatever they have in common. The number behind a
stage's name is its code's version: raise it when the result for equal settings changes.
"""

from eed_search.stages.bench import Report, Stage
from eed_search.stages.clocking import Deployed, machine_name
from eed_search.stages.making import TrainedMember
from eed_search.stages.workshop import Workshop, open_workshop

__all__ = ["Deployed", "Report", "Stage", "TrainedMember", "Workshop", "machine_name", "open_workshop"]
