"""Optuna's samplers by name, made anew for each proposal.

A sampler's state is then a function of the study and of the proposal's number alone, so a search that was
killed and resumed proposes what the undisturbed one would have.
"""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from eed_search.config import registry

PORTFOLIO = "portfolio"
_EXPLORES = 3  # every third proposal of the portfolio is drawn at random


def tpe(own: int, search: int, startup: int) -> BaseSampler:
    """Tree-structured Parzen estimator, multivariate."""
    del search
    # `group`: each set of parameters that occur together is modelled together, so that what a
    # second member is, is learnt only from teams that have one.
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=startup, multivariate=True, group=True)


def nsga2(own: int, search: int, startup: int) -> BaseSampler:
    """A genetic algorithm for several objectives, of a small population."""
    del search
    # A generation is filled by finished trials only, so it is kept small.
    return optuna.samplers.NSGAIISampler(seed=own, population_size=max(4, startup))


def qmc(own: int, search: int, startup: int) -> BaseSampler:
    """One scrambled Sobol sequence for the whole search."""
    del startup
    # One sequence for the whole search; only what stands outside it is drawn by the proposal's seed.
    rest = optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.QMCSampler(
        seed=search, scramble=True, warn_independent_sampling=False, independent_sampler=rest
    )


def random(own: int, search: int, startup: int) -> BaseSampler:
    """Uniform draws."""
    del search, startup
    return optuna.samplers.RandomSampler(seed=own)


def gp(own: int, search: int, startup: int) -> BaseSampler:
    """Optuna's Gaussian process."""
    del search
    return optuna.samplers.GPSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False)


def explores(number: int, startup: int) -> bool:
    """Whether the portfolio draws its proposal of this number at random instead of asking its model."""
    return number < startup or number % _EXPLORES == _EXPLORES - 1


def make_sampler(name: str, seed: int, number: int, startup: int) -> BaseSampler:
    """Make the sampler of one proposal.

    Args:
        name: As the registry has it.
        seed: The search's.
        number: The proposal's, from 0.
        startup: Proposals at random before the sampler's model is asked; for `nsga2` the size of a
            generation.
    """
    own = int(np.random.default_rng([seed, number]).integers(2**32))
    with warnings.catch_warnings():
        # TPE's `group` and QMC are marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made: BaseSampler = registry.load("sampler", name)(own, seed, startup)
        return made
