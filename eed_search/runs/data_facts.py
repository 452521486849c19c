"""What was read of a data set: the one line of truth that every screen shows, and what a bundle keeps of it.

The source's reader makes it, the ledger keeps it under `facts["data"]`, and whoever shows it renders it from here.
Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Resize = Literal["none", "fit"]
_WORTH_SAYING = 100e6  # bytes
_MOST_NAMED = 6


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes what the networks take; pixels end in [0, 1], channels first.

    Attributes:
        colour: `RGB` (three channels in this order), or `grey` (one).
        height: Pixels.
        width: Pixels.
        resize: `fit`: turned as its EXIF says, scaled until the shorter side fits, the middle cut out; `none`: the
            data set's images were taken as they are, and `fit` is what a photograph of another size gets.
        filter: How it is scaled.
        range: Smallest and largest pixel value.
    """

    colour: Literal["RGB", "grey"]
    height: int
    width: int
    resize: Resize = "none"
    filter: Literal["bilinear"] = "bilinear"
    range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class DataFacts:
    """What was read.

    Attributes:
        source: As the search-space file names it.
        class_names: One for each class, in the order of the labels.
        preprocessing: Size and colours of the images, and the rule for a photograph.
        num_images: Images of each split: `train`, `validation`, `fresh`, `test`.
        came_from: Where each split comes from, such as `train/` or `cut from train/`.
        left_out: What was not read or not used: how many, and why.
        num_twins: Images that occur elsewhere with the same content; all of one content are in one split.
        num_groups: Groups that no split divides; none where the data name none.
        warnings: What the reader should know, such as classes without images.
        num_bytes: Bytes that the images take in each process that holds them.
    """

    source: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    num_images: dict[str, int]
    came_from: dict[str, str]
    left_out: tuple[tuple[int, str], ...] = ()
    num_twins: int = 0
    num_groups: int | None = None
    warnings: tuple[str, ...] = ()
    num_bytes: int = 0

    def line(self) -> str:
        """Say it all in one line."""
        rule = self.preprocessing
        parts = [
            f"{len(self.class_names)} classes ({_shortened(self.class_names)}), images {rule.height}×{rule.width}"
            f" {'grey' if rule.colour == 'grey' else 'RGB'}",
            self._splits(),
        ]
        if self.num_groups is not None:
            parts.append(f"{self.num_groups:,} groups, none divided")
        if self.num_twins:
            parts.append(f"{self.num_twins:,} images share their content with another, such are in one split")
        if self.left_out:
            parts.append(f"left out: {', '.join(f'{count:,} {why}' for count, why in self.left_out)}")
        if self.num_bytes >= _WORTH_SAYING:
            parts.append(f"{self.num_bytes / 1e6:,.0f} MB in each process")
        return "; ".join((*parts, *self.warnings))

    def _splits(self) -> str:
        places = {self.came_from.get(name, "") for name in self.num_images}
        one = places.pop() if len(places) == 1 else None
        said = [
            f"{name} {count:,}" + ("" if one is not None else f" ({self.came_from.get(name, '')})")
            for name, count in self.num_images.items()
        ]
        return ", ".join(said) + (f", all {one}" if one else "")

    def to_plain(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> DataFacts:
        """Read what `to_plain` gave, from JSON too."""
        rule = dict(plain["preprocessing"])
        rule["range"] = tuple(rule["range"])
        return cls(
            **{
                **plain,
                "class_names": tuple(plain["class_names"]),
                "preprocessing": Preprocessing(**rule),
                "left_out": tuple((int(count), str(why)) for count, why in plain["left_out"]),
                "warnings": tuple(plain["warnings"]),
            }
        )


def _shortened(names: tuple[str, ...]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMED - 1])}, … {names[-1]}"
