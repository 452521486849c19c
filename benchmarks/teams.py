"""Is the diversity loss worth its terms? One team, fine-tuned jointly with all of them and without each.

    python benchmarks/teams.py [search_spaces/digits.yaml] [--members prune:0.5 radmm:0.25] [--beta 0.1] [--omega 1]
                               [--gamma 0.5] [--gate 0.3] [--home FOLDER] [--set key=value ...]

A member is METHOD:SIZE, scored by NIS where its method looks at scores. Each row is a whole trial of the search: members,
joint fine-tune, attack through the gate at every prefix, attack on the gate's cost, latency as the sum of the members'. The last
column compares with the first row on the same validation images. `alone` is the most robust member by itself, fine-tuned
for as many epochs.

Finished stages are read from the home's store: a table that was cut short goes on, and members that
`benchmarks/members.py` made under the same settings are not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from eed_search import trial  # noqa: E402
from eed_search.config.loader import Override, load  # noqa: E402
from eed_search.config.params import MemberChoice, TrialParams  # noqa: E402
from eed_search.config.registry import BUILT_IN  # noqa: E402
from eed_search.config.spec import Choice, Spec  # noqa: E402
from eed_search.core.statistics import paired_difference  # noqa: E402
from eed_search.runs.cost import attacked_speedup  # noqa: E402
from eed_search.runs.records import Measurement, TrialRecord, unpack_bits  # noqa: E402
from eed_search.tracking.text import per_cent  # noqa: E402


def variants(params: TrialParams) -> dict[str, TrialParams]:
    """Name the rows: all terms, without each, and each member alone."""
    rows = {
        "all terms": params,
        "omega = 0": replace(params, omega=0.0),
        "gamma = 0": replace(params, gamma=0.0),
        "omega = gamma = 0": replace(params, omega=0.0, gamma=0.0),
        "beta = 0": replace(params, beta=0.0),
    }
    alone = {f"{one.title()} alone": replace(params, members=(one,), beta=0.0) for one in params.members}
    return rows | alone


def say(text: str) -> None:
    """Show progress on the error stream."""
    print(f"\r{text[:118]:<118}", end="", file=sys.stderr, flush=True)


def line(name: str, m: Measurement, first: Measurement) -> str:
    """Write one row."""
    right, before = (unpack_bits(one.robust_hex, one.robust_accuracy.num_samples) for one in (m, first))
    value, low, high = paired_difference(right, before)
    attacked = attacked_speedup(m)
    return (
        f"\r{name:<24} {per_cent(m.clean_accuracy):<14} {per_cent(m.robust_accuracy):<14}"
        f" {m.mean_members_run:.2f} of {m.num_members}   {m.latency.speedup.value:.2f}"
        f" ({m.latency.speedup.low:.2f}..{m.latency.speedup.high:.2f})   {f'{attacked:.2f}' if attacked else '-':<8}"
        f" {100 * value:+.1f} ({100 * low:+.1f}..{100 * high:+.1f})"
    )


def table(spec: Spec, home: Path, params: TrialParams) -> int:
    """Run every row and print it; 1 if a row failed."""
    setting = trial.prepare(spec, home / "store", say)
    probe = trial.make_probe(setting)
    print(
        f"\r{'':<24} clean          robust         members run   speed-up              attacked  minus the first row's"
    )
    print(line("dense base", setting.base.measurement, setting.base.measurement), flush=True)
    first, failed = None, False
    for number, (name, one) in enumerate(variants(params).items()):
        record = trial.run(number, one, setting, probe, say)
        assert isinstance(record, TrialRecord)
        if record.measurement is None:
            print(f"\r{name:<24} {record.outcome}: {record.reason} {record.message}", flush=True)
            failed = True
            continue
        first = first or record.measurement
        print(line(name, record.measurement, first), flush=True)
    return int(failed)


def choice(text: str) -> MemberChoice:
    """Read `METHOD:SIZE`."""
    name, _, size = text.partition(":")
    method = next((one for one in BUILT_IN["method"] if one == name), None)
    if method is None:
        raise argparse.ArgumentTypeError(f"{text!r}: the method is one of {', '.join(BUILT_IN['method'])}")
    try:
        return MemberChoice("nis", float(size), method)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write METHOD:SIZE, such as prune:0.5") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("search_spaces/digits.yaml"))
    parser.add_argument("--members", type=choice, nargs="+", default=[choice("prune:0.5"), choice("prune:0.25")])
    parser.add_argument("--home", type=Path, default=Path("runs/members"), help="folder of the store")
    for name, value, what in (("beta", 0.1, "diversity"), ("omega", 1.0, "L_R"), ("gamma", 0.5, "L_C")):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"weight of {what} ({value:g})")
    parser.add_argument("--gate", type=float, default=0.3, help="gate threshold (0.3)")
    parser.add_argument("--recovery", choices=("labels", "distill"), default="labels")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    spec = load(given.file, [Override.parse(text) for text in given.sets])
    methods = spec.search.space.model_copy(update={"method": Choice(values=tuple(BUILT_IN["method"]))})
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"space": methods})})
    params = TrialParams(
        tuple(given.members), "all", given.recovery, "fast_first", given.beta, given.omega, given.gamma, given.gate
    )
    return table(spec, given.home, params)


if __name__ == "__main__":
    sys.exit(main())
