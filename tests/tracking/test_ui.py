"""MLflow's pages: the server, its links, and what a browser shows of a search of 24 trials."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from eed_search.core.errors import RunError
from eed_search.frontier.points import frontier
from eed_search.runs.ledger import FILE_NAME, Ledger
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect, database_uri
from eed_search.tracking.report import write_report
from eed_search.tracking.summary import summarise
from eed_search.tracking.ui import Ui, compare_link, find_links, serve
from tests.tracking.factories import make_spec, make_view
from tests.waiting import HANGS_S

pytestmark = pytest.mark.timeout(900)  # an MLflow server and a browser

NUM_TRIALS = 24
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished search."""
    folder = tmp_path_factory.mktemp("home")
    view = make_view(NUM_TRIALS)
    tracker = MlflowTracker(make_spec(), folder, view.name)
    tracker.start(view)
    tracker.finish(view, write_report(summarise(view), folder / "digits" / "report")["html"].parent, "finished")
    return folder


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Ui]:
    """MLflow's server on it."""
    with serve(home, "digits", 0) as ui:
        yield ui


def runs_of(link: str) -> list[str]:
    """Read the run ids out of a compare link."""
    return list(json.loads(parse_qs(link.partition("?")[2])["runs"][0]))


def test_compare_link_is_url_encoded() -> None:
    """The compare link is URL-encoded JSON."""
    link = compare_link("http://h", "1", ["a", "b"])
    assert link.startswith("http://h/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%221%22%5D")


def test_links_name_the_runs_they_promise(home: Path) -> None:
    """Frontier, frontier beside base and baselines, all measured trials."""
    links = find_links(database_uri(home), "http://h", "digits")
    assert links
    view = make_view(NUM_TRIALS)
    client = connect(database_uri(home))
    points = {client.get_run(run).data.tags["point"] for run in runs_of(links.frontier)}
    assert points == {point.id for point in frontier(view)}
    beside = {client.get_run(run).data.tags["kind"] for run in runs_of(links.beside_baselines)}
    assert beside == {"base", "baseline", "trial"}
    measured = [trial for trial in view.trials.values() if trial.measurement]
    assert len(runs_of(links.trials)) == len(measured)
    assert (links.search, "machine_learning" in links.run) == ("digits", True)


@pytest.mark.parametrize("name", ["absent", "it's"])
def test_an_unknown_search_is_one_clear_error(home: Path, name: str) -> None:
    """A search that MLflow does not hold is one clear error."""
    with pytest.raises(RunError, match="holds no search of that name"):
        find_links(database_uri(home), "http://h", name)


def test_a_home_without_mlflow_is_one_clear_error(tmp_path: Path) -> None:
    """A home without a database starts nothing."""
    with pytest.raises(RunError, match="holds no MLflow database"), serve(tmp_path, None, 0):
        pass


def test_a_taken_port_is_one_clear_error(home: Path) -> None:
    """A port that somebody listens on is one clear error."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=f"--port {port}: cannot listen"), serve(home, None, port):
            pass


def test_a_port_that_is_none_is_one_clear_error(home: Path) -> None:
    """A number that is no port is one clear error."""
    with pytest.raises(RunError, match=r"outside 0\.\.65535"), serve(home, None, 70_000):
        pass


@pytest.mark.whole
def test_a_search_on_a_server_of_its_own_leads_there(home: Path, served: Ui, tmp_path: Path) -> None:
    """Where tracking.uri names a server, nothing is started and the links lead to it."""
    (tmp_path / "digits").mkdir()
    with Ledger(tmp_path / "digits" / FILE_NAME, write=True) as ledger:
        spec = make_spec(tracking={"uri": served.url}).to_plain()
        ledger.append("run", {"name": "digits", "spec": spec, "facts": {}})
    with serve(tmp_path, "digits", 0) as ui:
        assert ui.url == served.url
        assert ui.links
        assert ui.links.frontier == (served.links.frontier if served.links else "")


def test_server_answers_on_loopback_alone(served: Ui) -> None:
    """The server listens on 127.0.0.1 and is healthy."""
    assert served.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{served.url}/health") as answer:
        assert answer.status == 200


def test_a_search_writes_to_a_server_as_to_a_database(served: Ui, tmp_path: Path) -> None:
    """With an http tracking.uri, runs and report reach the server, and the home stays without a database."""
    view = make_view(2, name="elsewhere")
    tracker = MlflowTracker(make_spec(tracking={"uri": served.url, "experiment": "remote"}), tmp_path, view.name)
    tracker.start(view)
    tracker.finish(view, write_report(summarise(view), tmp_path / "report")["html"].parent, "finished")
    client = connect(served.url)
    assert len(client.list_artifacts(tracker.parent_run_id, "report")) == 3
    assert client.get_run(tracker.parent_run_id).info.status == "FINISHED"
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.whole
def test_sigterm_ends_the_server(home: Path, tmp_path: Path) -> None:
    """The process that serves is told to end: its server ends too."""
    script = (
        "import sys, pathlib\n"
        "from eed_search.tracking.ui import serve\n"
        "with serve(pathlib.Path(sys.argv[1]), None, 0) as ui:\n"
        "    print(ui._server.pid, flush=True)\n"
        "    ui.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        server = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS_S) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(server, 0)


# ---------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not BROWSER or not DRIVER:
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1500,1200",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(HANGS_S)
    yield driver
    driver.quit()


def await_element(browser: Any, css: str = "", *, text: str = "") -> Any:
    """Wait until an element is there and give it."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    how = (By.CSS_SELECTOR, css) if css else (By.XPATH, f"//*[normalize-space(text())='{text}']")
    return WebDriverWait(browser, HANGS_S).until(lambda driver: driver.find_element(*how))


def choose(browser: Any, selector: str, option: str) -> None:
    """Choose a metric or parameter for an axis of MLflow's scatter plot."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.find_element(By.ID, selector).click()
    listed = f"//*[@role='option'][normalize-space(.)='{option}']"
    WebDriverWait(browser, HANGS_S).until(lambda driver: driver.find_element(By.XPATH, listed)).click()
    WebDriverWait(browser, HANGS_S).until(lambda driver: driver.find_element(By.ID, selector).text.strip() == option)


def keep_picture(browser: Any, name: str) -> None:
    """Save what the browser shows where `EED_SCREENSHOTS` says, for people to look at."""
    if folder := os.environ.get("EED_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.mark.whole
def test_parallel_coordinates_show_every_measured_trial(browser: Any, served: Ui) -> None:
    """The link of all trials opens on parallel coordinates with one line for each of them."""
    assert served.links
    browser.get(served.links.trials)
    await_element(browser, ".parcoords")
    keep_picture(browser, "parallel_coordinates")
    lines, labels = browser.execute_script(
        "const d = document.querySelector('.js-plotly-plot').data[0].dimensions;"
        "return [d[0].values.length, d.map(e => e.label)];"
    )
    assert lines == len(runs_of(served.links.trials)) >= 16
    assert labels[-1] == "robust_accuracy"


@pytest.mark.whole
def test_scatter_plot_shows_the_two_objectives(browser: Any, served: Ui) -> None:
    """Latency against robust accuracy: the same numbers as in the ledger."""
    assert served.links
    browser.get("about:blank")
    browser.get(served.links.trials)
    await_element(browser, text="Scatter Plot").click()
    await_element(browser, "#x-axis-selector")
    choose(browser, "x-axis-selector", "latency_ms")
    choose(browser, "y-axis-selector", "robust_accuracy")
    keep_picture(browser, "scatter")
    xs, ys = browser.execute_script(
        "const plots = [...document.querySelectorAll('.js-plotly-plot')];"
        "const d = plots.find(p => p.data[0].type.startsWith('scatter')).data[0]; return [[...d.x], [...d.y]];"
    )
    measured = [t.measurement for t in make_view(NUM_TRIALS).trials.values() if t.measurement]
    expected = sorted((m.latency.latency_ms.value, m.robust_accuracy.value) for m in measured)
    assert sorted(zip(map(float, xs), map(float, ys), strict=True)) == expected


def test_page_of_the_search_shows_its_verdict(browser: Any, served: Ui) -> None:
    """The search's own page shows its name, its verdict and its children."""
    assert served.links
    browser.get(served.links.run)
    await_element(browser, text=summarise(make_view(NUM_TRIALS)).verdict.text)
    keep_picture(browser, "search")


def test_report_draws_itself(browser: Any, home: Path) -> None:
    """The report's page draws both pictures from the file alone, without an error."""
    browser.get_log("browser")  # forget the other pages' messages
    browser.get((home / "digits" / "report" / "frontier.html").as_uri())
    await_element(browser, "#hypervolume .main-svg")
    keep_picture(browser, "report")
    drawn = browser.execute_script("return [...document.querySelectorAll('.js-plotly-plot')].map(p => p.id)")
    assert drawn == ["frontier", "hypervolume"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
