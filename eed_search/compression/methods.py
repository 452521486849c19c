"""Every way to make a member, by the name that a search-space file gives it."""

from __future__ import annotations

from eed_search.compression.contract import Compress
from eed_search.compression.cstar import cstar
from eed_search.compression.learned import learned
from eed_search.compression.prune import prune
from eed_search.compression.radmm import radmm
from eed_search.core.spec import Members, Recipe

METHODS: dict[str, Compress] = {"prune": prune, "radmm": radmm, "cstar": cstar, "learned": learned}
VERSIONS = {"radmm": 1, "cstar": 2, "learned": 1}
"""Of each method's code: raise it when the result for equal settings changes. `prune` goes by its stage's."""


def settings_of(members: Members, method: str) -> Recipe | None:
    """Give a method's own training before `members.finetune`; none for `prune`, which has none."""
    recipes: dict[str, Recipe] = {"radmm": members.radmm, "cstar": members.cstar, "learned": members.learned}
    return recipes.get(method)
