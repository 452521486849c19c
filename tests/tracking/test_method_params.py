"""Methods in MLflow: said of every member where the space has several, of none where it has one."""

from pathlib import Path

from tests.tracking.factories import make_trial, make_view
from tests.tracking.test_mlflow_log import children, track


def test_every_member_says_its_method_where_there_are_several(tmp_path: Path) -> None:
    """A run without the parameter would be drawn at the axis' top: pruned members say `prune`, absent ones `none`."""
    trial = make_trial(0)
    trial.params.clear()
    trial.params.update(
        {"num_members": 2, "member1.score": "nis", "member1.size": 0.5, "member2.score": "nis", "member2.size": 0.25}
        | {"member2.method": "cstar", "subsets": "all", "recovery": "labels", "order": "fast_first"}
        | {"beta": 0.1, "omega": 1.0, "gamma": 0.1, "gate_threshold": 0.5}
    )
    view = make_view(1)
    view.trials[0] = trial
    space = {"num_members": [1, 2, 3], "method": ["prune", "cstar"]}
    tracker = track(tmp_path, view, search={"space": space})
    run = children(tracker, "tags.point = '0.0'")["000 nis-50 cstar-25"]
    assert [run.data.params[f"member{i}.method"] for i in (1, 2, 3)] == ["prune", "cstar", "none"]


def test_no_member_says_it_where_all_are_pruned(tmp_path: Path) -> None:
    tracker = track(tmp_path, make_view(1))
    (run,) = children(tracker, "tags.point = '0.0'").values()
    assert not any(key.endswith(".method") and key.startswith("member") and key[6].isdigit() for key in run.data.params)
