"""Every error that eed-search raises on purpose, drawn as one tree.

EedSearchError
├── SpecError          a search-space file is wrong (all mistakes at once)
├── DataError          a data set is missing, corrupt or of the wrong form
├── ModelError         a model cannot be built, compressed or exported
├── StoreError         a stored file is missing, altered or cannot be written
│   └── StorageError   shared storage cannot be reached, or refuses
├── MachineFault       what a search runs on broke, such as a full disk: no trial's fault, `resume` goes on
├── RunError           a run does not exist, exists already, or holds nothing to show
├── BundleError        a deployed bundle is missing, altered or gives another answer
├── InvalidResult      a robust accuracy failed a sanity check
└── TrialFailure       one trial went wrong; carries the reason that the ledger keeps
    └── Diverged       a loss or a metric became NaN or infinite

Each message says where, what was given, what is allowed, and what to do.
"""

from __future__ import annotations

from typing import ClassVar, Literal

FailureReason = Literal["diverged", "oom", "timeout", "infrastructure", "error"]


class EedSearchError(Exception):
    """The root: the command line prints its message and ends with `exit_code`."""

    exit_code: ClassVar[int] = 1


class SpecError(EedSearchError):
    """A search-space file, an option or a `--set` is wrong.

    Args:
        problems: One line for each mistake: `FILE: key.path: given; allowed; what to do`.
    """

    exit_code = 3

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(EedSearchError):
    """A data set is missing, corrupt or of the wrong form."""

    exit_code = 4


class ModelError(EedSearchError):
    """A model cannot be built, compressed or exported."""

    exit_code = 5


class StoreError(EedSearchError):
    """A stored file is missing, altered or cannot be written."""

    exit_code = 6


class StorageError(StoreError):
    """Shared storage cannot be reached, or refuses."""


class MachineFault(EedSearchError):
    """What a search runs on broke: a full disk, a lost file system. Its trials stay open."""

    exit_code = 6


class RunError(EedSearchError):
    """A run does not exist, exists already, or holds nothing to show."""

    exit_code = 7


class BundleError(EedSearchError):
    """A deployed bundle is missing, altered or gives another answer than the trained team."""

    exit_code = 8


class InvalidResult(EedSearchError):
    """A robust accuracy was measured, and a sanity check says that it means nothing."""

    exit_code = 9


class TrialFailure(EedSearchError):
    """One trial went wrong; the search goes on.

    Args:
        reason: What kind of failure it was, as the ledger keeps it.
        message: What happened, in one line.
    """

    reason: FailureReason

    def __init__(self, reason: FailureReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Keep the reason when a worker sends the error to the driver."""
        return (TrialFailure, (self.reason, str(self)))


class Diverged(TrialFailure):
    """A loss or a metric became NaN or infinite."""

    def __init__(self, message: str) -> None:
        super().__init__("diverged", message)

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Keep the message when a worker sends the error to the driver."""
        return (Diverged, (str(self),))
