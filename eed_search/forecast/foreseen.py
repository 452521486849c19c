"""Proposals that can be foreseen: the first ones and those of chance follow from the seed alone."""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.config.params import TrialParams
from eed_search.config.spec import Spec

MOST_DRAWN = 400  # beyond that, a forecast takes more of the same


@dataclass(frozen=True)
class Draw:
    """A proposal.

    Attributes:
        params: What would be tried.
        certain: Whether the search will propose just this; else a model may choose otherwise.
    """

    params: TrialParams
    certain: bool


def draws(spec: Spec, most: int = MOST_DRAWN) -> list[Draw]:
    """Draw a search's proposals as if no trial taught anything.

    Args:
        spec: The search.
        most: How many, at most.
    """
    import optuna

    from eed_search.search.sampling.proposals import first_proposals, suggest
    from eed_search.search.sampling.study import OBJECTIVES, sampler_for

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=list(OBJECTIVES.values()))
    num = min(spec.search.trials, most)
    for proposal in first_proposals(spec)[:num]:
        study.enqueue_trial(proposal)
    learns = spec.search.sampler not in ("random", "qmc")
    startup = max(spec.search.startup_trials, len(spec.search.first))
    found = []
    for number in range(num):
        study.sampler = sampler_for(spec, number)
        params = TrialParams.from_flat(suggest(study.ask(), spec))
        found.append(Draw(params, not learns or number < startup))
    return found
