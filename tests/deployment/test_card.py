"""What a bundle's card says: every robust accuracy with its badge, every speed-up with what an attack leaves of it."""

from __future__ import annotations

from eed_search.deployment import card
from eed_search.deployment.runtime import preprocessing
from eed_search.frontier.attacked import result_facts
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.records import to_json
from tests.tracking.factories import make_attack, make_measurement

MEASURED = make_measurement(0.8, 0.2, members=2)
CLAIMS = {
    "run": "digits",
    **to_json(MEASURED),
    "attacked_speedup": attacked_speedup(MEASURED),
    "checked": result_facts(make_attack(0.7)),
    "claim": result_facts(make_attack(0.9, tier=2, badge="invalid", reasons=("check 9, gradients: none",))),
    "split": "validation",
}


MANIFEST = {
    "members": ["member-1.onnx", "member-2.onnx"],
    "gate": {"rule": "threshold", "threshold": 0.4, "sharpness": 1.0, "tau": 1.0},
    "image_shape": [3, 32, 32],
    "class_names": [f"sign {i}" for i in range(43)],
    "preprocessing": preprocessing((3, 32, 32)),
    "versions": {"onnxruntime": "1.31.1"},
}


def test_the_attacked_speed_up_stands_with_the_speed_up() -> None:
    told = dict(card.table(MANIFEST, CLAIMS))
    assert told["speed-up"].endswith(
        f"over the dense base (run through this script); under attack {CLAIMS['attacked_speedup']:.2f} ×"
    )
    assert dict(card.table(MANIFEST, {**CLAIMS, "attacked_speedup": None}))["speed-up"].endswith("not measured")


def test_the_difference_to_the_base_rests_on_images_that_chose_nothing() -> None:
    """One from the images that chose has no line."""
    ends = {"value": -0.012, "low": -0.034, "high": 0.01}
    on = {"num_images": 400, "source": "fresh"}
    told = dict(card.table(MANIFEST, {**CLAIMS, "difference_to_base": ends, "difference_to_base_on": on}))
    assert told["against the dense base"] == (
        "-1.2 points (95 % interval -3.4 to 1 points) of robust accuracy on 400 fresh images that chose nothing, under the"
        " search's attack"
    )
    assert "against the dense base" not in dict(card.table(MANIFEST, {**CLAIMS, "difference_to_base": ends}))


def test_each_badge_has_a_line_and_an_invalid_one_no_figure() -> None:
    told = dict(card.table(MANIFEST, CLAIMS))
    assert told["robust accuracy, badge `checked`"].startswith(
        "70.0 % (95 % interval 63.1 to 76.3 %) of 200 fresh images"
    )
    assert told["robust accuracy, badge `checked`"].endswith("eps 0.15, seed 0; attacked speed-up 2.00 ×.")
    assert told["robust accuracy, badge `invalid`"] == "invalid, no figure (check 9, gradients: none)."
    assert told["robust accuracy, badge `proxy`"].endswith("it is no claim.")


def test_what_it_is_stands_first_and_many_classes_are_shortened() -> None:
    found = card.table(MANIFEST, {**CLAIMS, "machine": "a processor", "threads": 1})
    assert [name for name, _ in found[:3]] == ["answers", "takes", "team"]
    told = dict(found)
    assert told["answers"].startswith("one of 43 classes: sign 0, sign 1, ")
    assert told["answers"].endswith("sign 10, … sign 42")
    assert told["takes"].startswith("PNG and JPEG files, or arrays; RGB, 32×32: turned as EXIF says, scaled (bilinear)")
    assert told["latency"].endswith("one image at a time, a processor, onnxruntime 1.31.1, 1 thread")


def test_the_manifest_lists_them_with_all_they_rest_on() -> None:
    proxy, checked, invalid = card.robust_accuracies(CLAIMS)
    assert (proxy["badge"], proxy["num_samples"], proxy["split"]) == ("proxy", 300, "validation")
    assert (checked["badge"], checked["tier"], checked["seed"], checked["value"]) == ("checked", 1, 0, 0.7)
    assert {"low", "high", "num_samples", "attack", "eps"} <= checked.keys()
    assert (invalid["badge"], invalid["value"]) == ("invalid", None)
    assert card.robust_accuracies({}) == []
