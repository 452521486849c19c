"""What an attack on one classifier is written down as: accuracies, checks, cost, and how much it may claim.

Accuracies are fractions, latencies milliseconds, ε is in pixel units on [0, 1]. Light: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.runs.cost import Cost
from eed_search.runs.records import Accuracy, Badge, RobustAccuracy

SCHEMA_VERSION = 3  # 2: certified; 3: one judge for every image
READABLE = (2, 3)  # what earlier versions wrote into ledgers and beside bundles stays theirs


@dataclass(frozen=True)
class AttackUse:
    """One attack of a tier and what came of it.

    Attributes:
        id: Short name, such as `G1`.
        name: For people.
        steps: Steps, or queries for an attack without gradients; none where it has no such number.
        restarts: Starts; none where it has no such number.
        num_attacked: Samples that no earlier attack had broken.
        num_broken: Those of them that this one broke: their deployed answer, or that of the prefix that it aimed at.
        forward_passes: Images that went through the team.
        gradient_passes: Images that a gradient was taken of.
        seconds: Wall-clock time.
        num_deployed_broken: Samples whose deployed answer this one broke first, whatever it aimed at; 0 in results of
            schema versions 1 and 2.
    """

    id: str
    name: str
    steps: int | None
    restarts: int | None
    num_attacked: int
    num_broken: int
    forward_passes: int
    gradient_passes: int
    seconds: float
    num_deployed_broken: int = 0


@dataclass(frozen=True)
class Check:
    """One sanity check.

    Attributes:
        number: 1 to 11, as docs/robustness.md counts them.
        name: What must hold.
        passed: Whether it holds; true where it does not apply.
        seen: What was seen, or why the check does not apply.
        applies: Whether there was anything to check.
    """

    number: int
    name: str
    passed: bool
    seen: str
    applies: bool = True


@dataclass(frozen=True)
class AttackResult:
    """A tier's result on one target.

    Attributes:
        target: What was attacked, as the user named it.
        key: Names weights, gate, images and budget: equal keys give equal results.
        tier: 1 or 2.
        badge: `checked` (tier 1), `claim` (tier 2 on test images), `invalid` where a check failed.
        reasons: Why it is invalid; empty otherwise.
        notes: What a reader should know.
        data: Where the images come from.
        split: `fresh`, `test` or `given`.
        seed: Seed for the random starts.
        num_members: Members in the team.
        clean: Right through the gate, without an attack.
        robust: Right through the gate on every image that any attack made.
        any_prefix: Right by every prefix that the gate can stop at: never above `robust`; the difference rests
            on the gate.
        static: Right by all members together, without the gate.
        clean_cost: On the images as they are.
        attacked_cost: On the image that broke a sample, or the last one tried.
        slowed_cost: On images made to pass the gate as late as possible, the label kept.
        worst_cost: Every member runs.
        attacks: In their order: a sample once broken is left alone by those behind.
        checks: The sanity checks.
        robust_hex: Which samples stayed right, packed bits in hexadecimal.
        forward_passes: Forward passes of the whole evaluation, the checks' own not counted.
        gradient_passes: Likewise.
        seconds: Wall-clock time of all finished parts, whichever process made them.
        versions: Versions of the tool and of torch.
        certified: Right on EVERY image within eps, by proof: never above `robust`. Often 0 %, which then says
            nothing about the network. None where nothing was tried, and in results of schema version 1.
        certified_by: How that was proved, or why nothing was tried (in schema version 2: `none: …`, beside 0 %).
        certified_hex: Which samples are, packed bits in hexadecimal.
    """

    schema_version: int
    target: str
    key: str
    tier: int
    badge: Badge
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    data: str
    split: str
    eps: float
    seed: int
    num_members: int
    clean: Accuracy
    robust: RobustAccuracy
    any_prefix: RobustAccuracy
    static: RobustAccuracy
    clean_cost: Cost
    attacked_cost: Cost
    slowed_cost: Cost | None
    worst_cost: Cost
    attacks: tuple[AttackUse, ...]
    checks: tuple[Check, ...]
    robust_hex: str
    forward_passes: int
    gradient_passes: int
    seconds: float
    versions: dict[str, str]
    certified: Accuracy | None = None
    certified_by: str = ""
    certified_hex: str = ""
