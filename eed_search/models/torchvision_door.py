"""The one door to torchvision: imports it even where its compiled operators cannot load.

The registry's Linux wheels of torchvision are CUDA builds. Beside a CPU build of torch their
operators do not load, and `import torchvision` then fails while it registers shapes for operators
that do not exist (pytorch/vision #9077, #9085). Declaring those operators first lets the import
pass; data sets, transforms and models work, calling the operators themselves still says that they
are missing. On a matching pair nothing is patched.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

_DECLARATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep: list[Any] = []  # a library's declarations end with it


@cache
def torchvision(submodule: str = "") -> ModuleType:
    """Import torchvision, or one of its submodules such as `datasets`.

    Raises:
        ImportError: If torchvision is not installed.
        RuntimeError: If it fails for another reason than missing operators.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    import torch

    for half_imported in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[half_imported]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for declaration in _DECLARATIONS:
        library.define(declaration)
    _keep.append(library)
    return importlib.import_module(name)
