"""Base networks and everything that depends on a network's form: build, resize, count, sign.

A network maps images in [0, 1], float32 NCHW, to logits; normalisation is inside.
"""

from eed_search.models.architecture import count_macs, fit_to_state, layout, place, signature
from eed_search.models.registry import build, build_for, check_images

__all__ = ["build", "build_for", "check_images", "count_macs", "fit_to_state", "layout", "place", "signature"]
