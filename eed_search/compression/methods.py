"""Every way to make a member, by the name that a search-space file gives it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from eed_search.compression.contract import Compress, Target, Work
from eed_search.compression.member import Member
from eed_search.config import names, registry
from eed_search.config.spec import Members, Recipe
from eed_search.core.errors import ModelError
from eed_search.models import fit_to_state


def key_of(members: Members, method: str) -> dict[str, Any]:
    """Give what decides a method's result besides `members.finetune`; nothing for `prune`, which goes by its stage's version.

    For a built-in method its recipe and its module's `VERSION`, for one that user code registered its source's digest.
    """
    own, version = settings_of(members, method), registry.beside("method", method, "VERSION")
    recipe = own.model_dump() if own else dict(names.digest_of("method", method))
    return recipe | ({} if version is None else {"version": version})


def settings_of(members: Members, method: str) -> Recipe | None:
    """Give a method's own training before `members.finetune`; none where it has none, or user code knows it."""
    recipes: dict[str, Recipe] = {"radmm": members.radmm, "cstar": members.cstar, "learned": members.learned}
    return recipes.get(method)


def method_function(name: str) -> Compress:
    """Give a method by its name, built in or registered by user code; what the latter makes is checked.

    Raises:
        ModelError: If there is none of that name.
    """
    if name in registry.BUILT_IN["method"]:
        built_in: Compress = registry.load("method", name)
        return built_in
    found = names.needed("method", name)

    def compress(base: nn.Module, target: Target, work: Work) -> Member:
        what = f"{found.place}: method {name!r}"
        member = found.make(base, target, work)
        if not isinstance(member, Member):
            raise ModelError(f"{what}: gives {type(member).__name__}; give a Member, such as `cut` makes")
        model = member.model.cpu().eval()
        try:
            fitted = fit_to_state(base, model.state_dict())
        except (ModelError, RuntimeError) as error:
            raise ModelError(
                f"{what}: its member is no network of the base's form ({error}); remove channels, factor layers or mask"
            ) from error
        images = torch.rand(2, *work.image_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            same = torch.allclose(fitted(images), model(images), atol=1e-4, rtol=1e-3)
        if not same:
            raise ModelError(f"{what}: its member answers otherwise once stored; keep to the base's layers and forward")
        return Member(model, member.masks)

    return compress
