"""Images: where they come from and which of them may be used for what."""

from eed_search.data.sources import Images, load_images
from eed_search.data.splits import Splits, load_splits

__all__ = ["Images", "Splits", "load_images", "load_splits"]
