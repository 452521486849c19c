"""What a bundle's card says: every robust accuracy with its badge, every speed-up with what an attack leaves of it."""

from __future__ import annotations

from eed_search.core.attacked import summary
from eed_search.core.cost import attacked_speedup
from eed_search.core.records import to_json
from eed_search.deployment import card
from tests.tracking.factories import make_attack, make_measurement

MEASURED = make_measurement(0.8, 0.2, members=2)
CLAIMS = {
    "run": "digits",
    **to_json(MEASURED),
    "attacked_speedup": attacked_speedup(MEASURED),
    "checked": summary(make_attack(0.7)),
    "claim": summary(make_attack(0.9, tier=2, badge="invalid", reasons=("check 9, gradients: none",))),
    "split": "validation",
}


def test_the_attacked_speed_up_stands_below_the_speed_up() -> None:
    names = [name for name, _ in card.rows(CLAIMS)]
    assert names.index("attacked speedup") == names.index("latency: speedup") + 1
    (said,) = (text for name, text in card.rows(CLAIMS) if name == "attacked speedup")
    assert said.startswith(f"{CLAIMS['attacked_speedup']:.4g}; under the slower")


def test_of_an_older_run_it_says_that_it_was_not_measured() -> None:
    told = dict(card.rows({**CLAIMS, "attacked_speedup": None}))
    assert told["attacked speedup"].startswith("not measured")


def test_each_badge_has_a_line_and_an_invalid_one_no_figure() -> None:
    told = dict(card.rows(CLAIMS))
    assert told["robust accuracy, badge `checked`"].startswith(
        "70.0 % (95 % interval 63.1 to 76.3 %) of 200 fresh images"
    )
    assert told["robust accuracy, badge `checked`"].endswith("eps 0.15, seed 0; attacked speed-up 2.00 ×")
    assert told["robust accuracy, badge `invalid`"] == "invalid, no figure (check 9, gradients: none)"
    assert "badge proxy" in told["robust accuracy"]


def test_the_manifest_lists_them_with_all_they_rest_on() -> None:
    proxy, checked, invalid = card.robust_accuracies(CLAIMS)
    assert (proxy["badge"], proxy["num_samples"], proxy["split"]) == ("proxy", 300, "validation")
    assert (checked["badge"], checked["tier"], checked["seed"], checked["value"]) == ("checked", 1, 0, 0.7)
    assert {"low", "high", "num_samples", "attack", "eps"} <= checked.keys()
    assert (invalid["badge"], invalid["value"]) == ("invalid", None)
    assert card.robust_accuracies({}) == []
