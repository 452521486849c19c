"""Which pruned networks a benchmark holds: every scheme at every ratio, with and without fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.transfer.spec import BenchmarkSpec, Scheme

Leave = tuple[str, str]
"""What was left out, and why."""


@dataclass(frozen=True)
class Choice:
    """One way to prune a base network.

    Attributes:
        scheme: Which filters or weights go first.
        ratio: Share removed from every layer, in [0, 1).
        finetuned: Whether it is trained again after the cut.
    """

    scheme: Scheme
    ratio: float
    finetuned: bool

    @property
    def title(self) -> str:
        """Name it in a few words, such as `l1_filter 50 % tuned`."""
        return f"{self.scheme} {100 * self.ratio:g} %{' tuned' if self.finetuned else ''}"


def choices(spec: BenchmarkSpec) -> tuple[Choice, ...]:
    """List the pruned networks of one base, in the file's order."""
    return tuple(Choice(s, r, f) for f in spec.finetuned for s in spec.schemes for r in spec.ratios)


class Clock:
    """How long the rest will take, from how long each model's networks took.

    Args:
        work: For each model, how many networks are still to come.
    """

    def __init__(self, work: dict[str, int]) -> None:
        self._left = dict(work)
        self._seconds: dict[str, list[float]] = {model: [] for model in work}

    def done(self, model: str, seconds: float, *, computed: bool) -> None:
        """Count a network; one that was read from the store says nothing about the others."""
        self._left[model] -= 1
        if computed:
            self._seconds[model].append(seconds)

    def dropped(self, model: str, number: int) -> None:
        """Count networks that will not come."""
        self._left[model] -= number

    def left_s(self) -> float | None:
        """Seconds left; a model not yet met counts as the mean of the others; none before the first."""
        means = {model: sum(times) / len(times) for model, times in self._seconds.items() if times}
        if not means:
            return None
        usual = sum(means.values()) / len(means)
        return sum(number * means.get(model, usual) for model, number in self._left.items())
