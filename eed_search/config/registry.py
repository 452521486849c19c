"""Every built-in name that a search-space file can give, and where its code lies: one line each.

To add one: a new file, and its line here (CONTRIBUTING.md, "Adding things"). Nothing is imported before it is used.
User code registers its own names through `eed_search.plugins` (`config.names`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

Kind = Literal["score", "method", "model", "source", "attack", "sampler"]

BUILT_IN: dict[Kind, dict[str, str]] = {
    "score": {
        "nis": "eed_search.compression.scores:nis",
        "erm": "eed_search.compression.scores:erm",
        "ase": "eed_search.compression.scores:ase",
        "bnsf": "eed_search.compression.bnsf:bnsf",
    },
    "method": {
        "prune": "eed_search.compression.prune:prune",
        "radmm": "eed_search.compression.radmm:radmm",
        "cstar": "eed_search.compression.cstar:cstar",
        "learned": "eed_search.compression.learned:learned",
    },
    "model": {
        "small_cnn": "eed_search.models.small_cnn:SmallCNN",
        "resnet18": "eed_search.models.resnet:ResNet18",
        "vgg16_bn": "eed_search.models.vgg:VGG16BN",
        "mobilenet_v2": "eed_search.models.mobilenet:MobileNetV2",
    },
    "source": {
        "digits": "eed_search.data.digits:digits",
        "npz": "eed_search.data.npz:npz",
        "cifar10": "eed_search.data.cifar10:cifar10",
        "svhn": "eed_search.data.svhn:svhn",
        "image_folder": "eed_search.data.image_folder:image_folder",
    },
    "attack": {  # without gradients, after those that climb; in this order
        "square": "eed_search.evaluation.attacks.square:square",
        "ray_s": "eed_search.evaluation.attacks.ray_s:ray_s",
    },
    "sampler": {
        "portfolio": "eed_search.search.sampling.samplers:random",  # its share of exploration; a model proposes the rest
        "tpe": "eed_search.search.sampling.samplers:tpe",
        "nsga2": "eed_search.search.sampling.samplers:nsga2",
        "qmc": "eed_search.search.sampling.samplers:qmc",
        "random": "eed_search.search.sampling.samplers:random",
        "gp": "eed_search.search.sampling.samplers:gp",
    },
}


def load(kind: Kind, name: str) -> Any:
    """Import the code of a built-in name.

    Raises:
        KeyError: If there is none of that name.
    """
    module, _, attribute = BUILT_IN[kind][name].partition(":")
    return getattr(import_module(module), attribute)


def beside(kind: Kind, name: str, attribute: str, default: Any = None) -> Any:
    """Give something that the module of a name may hold beside its code, such as `VERSION` or `problems`.

    Args:
        kind: What the name stands for.
        name: Built in, or not: then the default.
        attribute: What is asked for.
        default: Where the module does not have it.
    """
    if name not in BUILT_IN[kind]:
        return default
    return getattr(import_module(BUILT_IN[kind][name].partition(":")[0]), attribute, default)
