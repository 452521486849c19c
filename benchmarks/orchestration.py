"""How much of a search's time goes into running it, beyond its stages' own time?

    python benchmarks/orchestration.py runs/digits-1

Reads a finished run's ledger. While baselines and trials run side by side, every slot is either at work on a
stage (training, attacking, timing) or not; what is not is orchestration: handing out, loading, reporting,
reading what lies in the store, waiting for a stage that another trial computes or for the last trial. The limit is 10 % of the
slots' time. Waiting for one's turn at the latency probe counts as its stage.

Run on 2026-11-22 on the run whose table stands in `search_spaces/digits.yaml` (2 cores, nothing else
running): see docs/log.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from eed_search.core.errors import RunError
from eed_search.runs.ledger import FILE_NAME, Event, Ledger

LIMIT = 0.10
PHASE = "baselines and trials"


@dataclass(frozen=True)
class Account:
    """Where the slots' seconds went while baselines and trials ran.

    Attributes:
        phase_s: Length of the phase.
        slots: Trials that run at once.
        controls_s: Until each baseline's end, from the phase's start: they come first.
        stages_s: The stages that trials computed.
        found_s: The stages that trials found in the store, reading and waiting for who computed them.
        trials_s: The trials, from their first line to their last.
    """

    phase_s: float
    slots: int
    controls_s: float
    stages_s: float
    found_s: float
    trials_s: float

    @property
    def share(self) -> float:
        """Share of the slots' time that no computed stage accounts for."""
        return 1 - (self.controls_s + self.stages_s) / (self.phase_s * self.slots)


def account(events: list[Event], slots: int) -> Account:
    """Add up a run.

    Raises:
        RunError: If the run has not come through its trials in one go.
    """
    starts = [event.at for event in events if event.kind == "stage" and event.data["text"] == PHASE]
    ends = [event.at for event in events if event.kind == "stage" and event.data["text"] == "finals"]
    if len(starts) != 1 or len(ends) != 1 or any(event.kind == "resume" for event in events):
        raise RunError("the run was interrupted or is not finished; take one that went through in one go")
    results = [event.data for event in events if event.kind == "result"]
    uses = [use for result in results for use in result["stages"]]
    return Account(
        phase_s=ends[0] - starts[0],
        slots=slots,
        controls_s=sum(event.at - starts[0] for event in events if event.kind == "control"),
        stages_s=sum(float(use["seconds"]) for use in uses if not use["hit"]),
        found_s=sum(float(use["seconds"]) for use in uses if use["hit"]),
        trials_s=sum(float(result["seconds"]) for result in results),
    )


def main() -> int:
    """Print the account of a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--slots", type=int, default=2, help="trials that ran at once (2); baselines at most as many")
    options = parser.parse_args()
    try:
        with Ledger(options.run / FILE_NAME) as ledger:
            found = account(list(ledger.events()), options.slots)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{PHASE}: {found.phase_s:.1f} s with {found.slots} slots")
    print(
        f"  baselines {found.controls_s:.1f} s, trials {found.trials_s:.1f} s, of these in stages {found.stages_s:.1f} s and in"
        f" stages of others {found.found_s:.1f} s"
    )
    print(f"  beyond the stages' own time: {100 * found.share:.1f} % (limit {100 * LIMIT:.0f} %)")
    return 0 if found.share <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
