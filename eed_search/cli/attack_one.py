"""One attack of `eed-search attack`: its options, its budget, where its result is written."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.cli.homes import open_run
from eed_search.core.errors import SpecError
from eed_search.core.pace import now_and_then
from eed_search.core.texts import visible
from eed_search.frontier.attacked import Settings, refuse_second_claim
from eed_search.runs.attack_records import AttackResult

if TYPE_CHECKING:
    import torch

    from eed_search.evaluation.target import Target
    from eed_search.pipeline.targets import AttackOptions

_EVERY_S = 10.0  # between two lines about one attack
_GREY_EPS = 0.5
_LEAST_EPS = 1 / 1000  # half a grey level is 0.002: whoever gives less has divided by 255 twice


@dataclass(frozen=True)
class AttackArguments:
    """The options.

    Attributes:
        tier: 1 or 2.
        eps: Budget as the user wrote it; none takes the search's.
        data: Images to take instead of the target's own.
        num_samples: Most samples.
        seed: Seed for everything random.
        device: `cpu` or `cuda`.
        table: `paper` for the columns of the paper.
        as_json: Print JSON.
    """

    tier: int = 1
    eps: str | None = None
    data: Path | None = None
    num_samples: int | None = None
    seed: int = 0
    device: str = "cpu"
    table: str | None = None
    as_json: bool = False


def attack_one(target: str, found: Target, options: AttackOptions, *, home: Path, device: torch.device) -> AttackResult:
    """Attack one classifier, and write the result where it belongs: into its run, or beside its bundle.

    Raises:
        RunError: If the point has had its claim on the test images, with other settings.
        BundleError: Likewise of a bundle.
    """
    from eed_search.evaluation.assess import assess
    from eed_search.search import attack_results

    settings = Settings(found.eps, options.seed, len(found.split))
    own = found.id and options.data is None
    bundle = Path(target) if not found.id and Path(target).is_dir() else None
    run = open_run(home, target.rpartition(":")[0] or None) if own else None
    if found.split_name == "test" and run is not None:
        refuse_second_claim(run[1], found.id, settings)
    elif found.split_name == "test" and bundle is not None:
        attack_results.refuse_second_claim(bundle, settings)
    result = assess(found, options.tier, seed=options.seed, home=home, device=device, report=reporter())
    if run is not None:
        progress(f"{found.name}: {attack_results.write_into_run(run[0], found.id, result)}")
    elif found.id:
        progress(f"{found.name}: not written into the run, for --data replaces its images")
    elif bundle is not None:
        progress(f"written {attack_results.write_beside(bundle, result)}")
    return result


def read_eps(text: str) -> float:
    """Read a budget such as `8/255` or `0.03`.

    Raises:
        SpecError: If it is no number.
    """
    number, _, divisor = text.partition("/")
    try:
        value = float(number) / (float(divisor) if divisor else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise SpecError([f"--eps {text}: is no number; write 8/255 or 0.0314"])
    return value


def refuse_eps(eps: float, where: str) -> None:
    """Refuse budgets of the wrong unit.

    Raises:
        SpecError: If it lies outside what an attack on pixels in [0, 1] can mean.
    """
    if eps > 1:
        hint = f"; for {eps:g} grey levels write {eps:g}/255" if eps <= 255 else ""
        raise SpecError([f"{where} {eps:g}: is outside 0..1, pixels lie in [0, 1]{hint}"])
    if eps <= 0:
        raise SpecError([f"{where} {eps:g}: leaves an attacker nothing; give more than 0, such as 8/255"])
    if eps >= _GREY_EPS:
        raise SpecError(
            [f"{where} {eps:g}: lets every image become the same grey, so that nothing can hold; give less than 0.5"]
        )
    if eps < _LEAST_EPS:
        raise SpecError([f"{where} {eps:g}: is less than half a grey level (0.002); was it divided by 255 twice?"])


def reporter() -> Callable[[str], None]:
    """Make the report of one attack: a line for each of its parts, and every ten seconds how far that is."""
    return now_and_then(progress, _EVERY_S)


def progress(text: str) -> None:
    """Say how far an attack is, beside what is printed."""
    print(visible(text), file=sys.stderr, flush=True)


# ---------------------------------------------------------------- what is shown
