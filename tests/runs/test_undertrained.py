"""Signs that a base was trained too briefly."""

from __future__ import annotations

import numpy as np
import pytest

from eed_search.runs.records import Accuracy
from eed_search.runs.undertrained import near_chance, nearly_none, still_falls, too_brief

# Mean losses by epoch of the digits' base (`search_spaces/digits.yaml`, one_cycle), measured 2026-11-30.
TWO = [1.816, 0.923]
THREE = [1.859, 0.933, 0.677]
FIVE = [1.928, 1.012, 0.694, 0.513, 0.433]
TEN = [2.03, 1.08, 0.848, 0.549, 0.467, 0.379, 0.318, 0.281, 0.25, 0.218]
THIRTY = [
    2.162, 1.275, 0.85, 0.623, 0.564, 0.513, 0.432, 0.377, 0.358, 0.309, 0.267, 0.229, 0.212, 0.238, 0.212, 0.195, 0.162,
    0.157, 0.137, 0.116, 0.111, 0.093, 0.089, 0.072, 0.068, 0.06, 0.05, 0.048, 0.04, 0.038,
]  # fmt: skip


def _right(num: int, of: int) -> Accuracy:
    return Accuracy.of(np.arange(of) < num)


@pytest.mark.parametrize(
    ("losses", "falls"), [(TWO, True), (THREE, True), (FIVE, False), (TEN, False), (THIRTY, False)]
)
def test_the_digits_tell_a_brief_training_from_a_whole_one(losses: list[float], falls: bool) -> None:
    """Two and three epochs are too brief; five, ten and thirty have no steep end."""
    assert still_falls(losses, 10) is falls


def test_a_long_training_that_halves_its_small_loss_is_no_sign() -> None:
    """At the end of thirty epochs the loss falls by half, from little to less."""
    assert THIRTY[-1] < 0.6 * THIRTY[-7]
    assert not still_falls(THIRTY, 10)


@pytest.mark.parametrize("losses", [[], [1.8]])
def test_without_two_epochs_there_is_no_curve(losses: list[float]) -> None:
    """Nothing is said of what was not seen, as of bases of earlier versions."""
    assert not still_falls(losses, 10)


@pytest.mark.parametrize(
    ("num", "of", "classes", "near"),
    [(30, 300, 10, True), (40, 300, 10, True), (56, 300, 10, True), (60, 300, 10, False), (170, 300, 2, False), (160, 300, 2, True),
     (7, 50, 10, True)],
)  # fmt: skip
def test_near_chance_is_what_a_guess_may_reach(num: int, of: int, classes: int, near: bool) -> None:
    """Within the interval of a guess, or less than a tenth of the way from it to all right."""
    assert near_chance(_right(num, of), classes) is near


@pytest.mark.parametrize(
    ("num", "of", "none"), [(0, 50, True), (2, 50, True), (3, 50, False), (6, 300, True), (9, 300, False)]
)
def test_nearly_none_is_what_cannot_be_told_from_one_in_a_hundred(num: int, of: int, none: bool) -> None:
    """By the exact interval of so many images."""
    assert nearly_none(_right(num, of)) is none


def test_a_sound_base_has_no_note() -> None:
    """The packaged digits at their normal settings: 80 % robust, a curve that has flattened."""
    assert too_brief(THIRTY, _right(296, 300), _right(240, 300), num_classes=10, epochs=30, decays=True) == ""


def test_the_note_names_every_sign_and_what_to_do() -> None:
    """The loss, the clean accuracy, the robust one, and the key with its value."""
    note = too_brief([2.3, 1.9], _right(8, 50), _right(0, 50), num_classes=10, epochs=2, decays=True)
    assert note == (
        "the dense base looks trained too briefly: over the last fifth of its epochs the loss still fell by 17 %"
        " (2.30 to 1.90) although the learning rate fell too; it is right on 16.0 % of the clean images, a guess on 10 %;"
        " 0 of 50 images stay right under the attack; raise base.epochs (now 2)"
    )


def test_a_constant_learning_rate_is_not_said_to_fall() -> None:
    """Then a loss that falls is less of a wonder, and still a sign."""
    note = too_brief(TWO, _right(280, 300), _right(180, 300), num_classes=10, epochs=2, decays=False)
    assert "fell by 49 % (1.82 to 0.92); raise base.epochs (now 2)" in note


def test_where_the_loss_has_settled_the_threat_may_be_too_large() -> None:
    """More epochs need not help then."""
    note = too_brief(THIRTY, _right(290, 300), _right(0, 300), num_classes=10, epochs=30, decays=True)
    assert note.endswith("0 of 300 images stay right under the attack; raise base.epochs (now 30), or lower threat.eps")
