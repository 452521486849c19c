"""Where an attack's result is written: into the run once it is over, or beside the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eed_search.core.errors import BundleError
from eed_search.deployment.runtime import MANIFEST
from eed_search.frontier.attacked import Settings
from eed_search.runs.ledger import read_run
from eed_search.runs.replicas import Copies
from eed_search.runs.run_lock import driving
from eed_search.search import attack_results
from eed_search.storage.shared_storage import Storage
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect
from eed_search.tracking.report import write_report
from eed_search.tracking.summary import summarise
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_attack, make_spec, make_view


def test_a_run_gets_its_result_once_in_ledger_and_report(tmp_path: Path) -> None:
    """A second call finds it there."""
    view = make_view(8)
    folder = write_ledger(tmp_path / "digits", view)
    write_report(summarise(view), folder / "report")
    found = make_attack(0.7)
    assert attack_results.write_into_run(folder, "0.0", found) == "written into run digits: its ledger, its report"
    assert attack_results.write_into_run(folder, "0.0", found) == "stands in run digits already"
    assert read_run(folder).attacks == {"0.0": [found]}
    assert "badge `checked`" in (folder / "report" / "frontier.html").read_text()


def test_shared_storage_gets_it_too(tmp_path: Path) -> None:
    """So that what is fetched elsewhere has it; a newer copy of another machine stays."""
    url, plain = f"file://{tmp_path}/shared", make_view(8)
    view = replace(plain, spec=plain.spec | {"storage": {"url": url}})
    folder, copies = write_ledger(tmp_path / "digits", view), Copies(Storage(url), "digits")
    found = make_attack(0.7)
    said = attack_results.write_into_run(folder, "0.0", found)
    assert said == "written into run digits: its ledger, its copy on shared storage"
    fetched = copies.fetch(tmp_path / "elsewhere")
    assert read_run(fetched).attacks == {"0.0": [found]}
    for id_ in ("1.0", "2.0"):
        attack_results.write_into_run(fetched, id_, found)
    said = attack_results.write_into_run(folder, "1.0", found)
    assert "not copied to shared storage, which holds a newer copy: `eed-search fetch` it" in said
    assert set(read_run(copies.fetch(tmp_path / "third")).attacks) == {"0.0", "1.0", "2.0"}
    with copies.driving():
        assert "not copied to shared storage: run digits: another machine drives it" in attack_results.write_into_run(
            fetched, "3.0", found
        )


def test_a_search_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Its ledger has one writer."""
    folder = write_ledger(tmp_path / "digits", make_view(8))
    with driving(folder):
        said = attack_results.write_into_run(folder, "0.0", make_attack(0.7))
    assert said.startswith("not written into the run: run digits: still runs")
    assert said.endswith("Then give this command again: it reads the finished result")
    assert read_run(folder).attacks == {}


@pytest.mark.slow
def test_mlflow_gets_it_in_the_points_own_run(tmp_path: Path) -> None:
    """Metrics and tags under the badge's name; the search stays ended."""
    view = make_view(2, uid="digits-1234")
    tracker = MlflowTracker(make_spec(), tmp_path, "digits", "digits-1234")
    facts = tracker.start(view)
    tracker.finish(view, None, "finished")
    folder = write_ledger(tmp_path / "digits", replace(view, tracker=facts | {"cursor": 0, "complete": True}))
    said = attack_results.write_into_run(folder, "1.0", make_attack(0.7))
    assert said == "written into run digits: its ledger, MLflow"
    client = connect(tracker.uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    (child,) = client.search_runs(experiments, "tags.point = '1.0'")
    assert child.data.metrics["checked_robust_accuracy"] == 0.7
    assert (child.data.tags["checked.eps"], child.data.tags["tier1.badge"]) == ("0.15", "checked")
    assert client.get_run(facts["parent_run_id"]).info.status == "FINISHED"


def test_a_bundles_results_lie_beside_it(tmp_path: Path) -> None:
    """The bundle itself never changes; of another bundle under the same name nothing is kept."""
    bundle = tmp_path / "best"
    bundle.mkdir()
    (bundle / MANIFEST).write_text("{}")
    path = attack_results.write_beside(bundle, make_attack(0.7))
    attack_results.write_beside(bundle, make_attack(0.7))
    attack_results.write_beside(bundle, make_attack(0.6, tier=2))
    assert path == tmp_path / "best.attacks.json"
    assert [one.robust.value for one in attack_results.results_beside(bundle)] == [0.7, 0.6]
    assert [one.name for one in bundle.iterdir()] == [MANIFEST]
    (bundle / MANIFEST).write_text('{"another": 1}')
    assert attack_results.results_beside(bundle) == []
    attack_results.write_beside(bundle, make_attack(0.5))
    assert len(json.loads(path.read_text())["results"]) == 1


def test_a_bundles_second_claim_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "best"
    bundle.mkdir()
    (bundle / MANIFEST).write_text("{}")
    attack_results.write_beside(bundle, make_attack(0.6, tier=2))
    attack_results.refuse_second_claim(bundle, Settings(0.15, 0, 200))
    with pytest.raises(
        BundleError, match=r"best has had its claim on the test images \(eps 0.15, seed 0, 200 images\)"
    ):
        attack_results.refuse_second_claim(bundle, Settings(0.15, 1, 200))
