"""From `ray up` to `ray down` on real hosts: own addresses, own process trees, ssh between them; one dies in the middle.

Runs as root where network namespaces can be made, with ssh and rsync installed; else it is skipped and says why:

    pytest -m cluster -s tests/cluster/test_real_hosts.py
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from eed_search.evaluation.sequential_test import DOMINATED
from eed_search.frontier.points import frontier
from eed_search.runs.ledger import read_run
from eed_search.search.revalidation import next_step
from tests.cli.calling import ROOT
from tests.cluster.hosts import Host, Hosts, hosts, lacking

NUM_TRIALS = 12
SPACE = f"""
name: tiny
data: {{num_train: 200, num_validation: 60, num_fresh: 40, num_test: 40}}
threat: {{eps: 0.15}}
model: {{width: 32}}
base: {{epochs: 2}}
members: {{finetune: {{epochs: 4}}}}
joint: {{epochs: 4}}
evaluation: {{steps: 4}}
latency: {{rounds: 3, final_rounds: 3, final_calls: 100, final_processes: 1, block_ms: 2}}
baselines: {{sizes: [0.5], recoveries: [labels]}}
search:
  trials: {NUM_TRIALS}
  startup_trials: 12
  racing: false
  space: {{num_members: [1, 2], gate_threshold: {{low: 0.2, high: 1}}}}
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "hosts can be made"),
]


@dataclass
class Story:
    """What happened, for the tests to judge.

    Attributes:
        there: The hosts; the last one was killed.
        up: What `ray up` said.
        launched: What `launch` printed on the laptop.
        code: Its exit code.
        killed_after: Trials that were finished when the host was killed.
        folder: The run's, on the shared disk.
    """

    there: Hosts
    up: subprocess.CompletedProcess[str]
    launched: str = ""
    code: int | None = None
    killed_after: int = 0
    folder: Path = field(default_factory=Path)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours on the laptop."""
        return self.there.laptop.run(*_ours(*words), timeout=240)


def _ours(*words: str) -> list[str]:
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "eed_search.cli", *words, "--home", "/mnt/runs"]


def cluster_file(there: Hosts) -> str:
    """Fill the file for own machines in, as its reader would; hosts here share one environment, already set up."""
    head, *workers = (host.address for host in there.others)
    raw = yaml.safe_load((ROOT / "ray_cluster.local.yaml").read_text(encoding="utf-8"))
    given = raw["provider"]["head_ip"]
    raw["cluster_name"] = f"eed-{there.others[0].name}"
    raw["provider"] |= {"head_ip": head, "worker_ips": workers}
    raw["auth"] |= {"ssh_user": "root", "ssh_private_key": str(there.key)}
    raw["file_mounts"] = {"~/.ray/auth_token": "~/.ray/auth_token"}
    raw["setup_commands"] = [
        "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token",
        f"grep -q eed-env ~/.bashrc || echo 'export PATH={Path(sys.executable).parent}:$PATH # eed-env' >> ~/.bashrc",
    ]
    small = " --num-cpus=1 --object-store-memory=100000000"
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        raw[part] = [
            line.replace(given, head).rstrip() + (small if "ray start" in line else "")
            for line in raw[part]
            if "mlflow-server" not in line
        ]
    return str(yaml.safe_dump(raw))


def until(what: str, seconds: float, true: Callable[[], Any]) -> Any:
    """Wait for something; give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Read a ledger that is being written."""
    with suppress(sqlite3.Error):
        database = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True)
        try:
            return [json.loads(data) for (data,) in database.execute("SELECT data FROM event WHERE kind = ?", (kind,))]
        finally:
            database.close()
    return []


def runs_a_trial(host: Host) -> bool:
    """Whether a trial's process is at work on a host."""
    return "ray::ImplicitFunc" in host.run("ps", "ax", "-o", "args").stdout


def say(text: str) -> None:
    """Tell whoever runs this with -s how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """Bring three hosts up, search, kill one of them in the middle, and bring the rest down."""
    with hosts(3) as there:
        laptop = there.laptop
        (laptop.folder / "root" / "ray_cluster.yaml").write_text(cluster_file(there))
        (laptop.folder / "root" / "tiny.yaml").write_text(SPACE)
        laptop.run(
            "bash",
            "-c",
            "umask 077; mkdir -p .ray; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n' > .ray/auth_token",
        )
        say("ray up")
        story = Story(there, laptop.run("ray", "up", "-y", "ray_cluster.yaml", timeout=240))
        try:
            assert story.up.returncode == 0, story.up.stdout + story.up.stderr
            _search(story)
            yield story
        finally:
            say("ray down")
            laptop.run("ray", "down", "-y", "ray_cluster.yaml", timeout=120)


def _search(story: Story) -> None:
    there = story.there
    story.folder = there.folder / "shared" / "runs" / "one"
    log = there.laptop.folder / "launch.log"
    say("launch")
    process = there.laptop.start(*_ours("launch", "tiny.yaml", "--name", "one"), log=log)
    try:
        victim = there.others[-1]

        def ready_to_kill() -> bool:
            assert process.poll() is None, log.read_text()
            return len(events(story.folder, "result")) >= 2 and runs_a_trial(victim)

        until("a trial on the last host, after two results", 300, ready_to_kill)
        story.killed_after = len(events(story.folder, "result"))
        say(f"{story.killed_after} trials are finished: the last host loses its network and its power")
        victim.cut_off()
        victim.kill()
        story.code = process.wait(420)
    finally:
        process.kill()
        process.wait()
        story.launched = log.read_text()
        say(story.launched)


def test_the_choice_of_the_cluster_is_the_first_line(story: Story) -> None:
    """Nothing but the file that lies there was needed."""
    head = story.there.others[0].address
    name = f"eed-{story.there.others[0].name}"
    assert story.launched.splitlines()[0] == f"On the cluster {name} of ray_cluster.yaml, head {head}: it is up"


def test_the_search_ends_although_a_host_died(story: Story) -> None:
    """Exit code 0, all trials at their end, none failed; the lost one was tried again."""
    view = read_run(story.folder)
    assert (story.code, view.state) == (0, "finished")
    assert 2 <= story.killed_after < NUM_TRIALS
    ends = {(trial.outcome, trial.reason) for trial in view.trials.values()}
    assert {outcome for outcome, _ in ends} <= {"done", "infeasible", "pruned"}
    assert {reason for outcome, reason in ends if outcome == "pruned"} <= {DOMINATED}  # surely beaten on the way
    assert len(view.trials) == NUM_TRIALS
    assert [one["state"] for one in events(story.folder, "attempt")].count("lost") >= 1


def test_the_frontier_is_complete(story: Story) -> None:
    """Every point of it has its final latency and its check: nothing of the finals is left."""
    view = read_run(story.folder)
    assert frontier(view)
    assert next_step(view) is None


def test_latencies_come_from_one_host(story: Story) -> None:
    """From the head, whoever trained."""
    machines = {
        json.loads(manifest.read_text())["settings"]["machine"]
        for manifest in (story.folder.parent / "store").glob("latency.*/*/manifest.json")
    }
    assert len(machines) == 1
    assert machines.pop().endswith(f" at {story.there.others[0].name}")


def test_the_laptop_sees_how_it_stands(story: Story) -> None:
    """`status --json` from outside the cluster."""
    done = story.call("status", "--json")
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["state"], facts["num_trials"]) == ("one", "finished", NUM_TRIALS)


def test_the_laptop_gets_a_bundle(story: Story) -> None:
    """Exported there, brought here, sound."""
    done = story.call("export", "one", "--out", "best")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^written best$", done.stdout, re.MULTILINE)
    assert story.there.laptop.run(*_ours("verify", "best")[:-2]).returncode == 0


def test_a_wrong_token_is_named(story: Story) -> None:
    """And what to do."""
    laptop = story.there.laptop
    laptop.run("bash", "-c", "echo 0123456789abcdef > wrong")
    done = laptop.run("env", "RAY_AUTH_TOKEN_PATH=/root/wrong", *_ours("status"))
    assert done.returncode == 7
    assert "the token of /root/wrong is not the cluster's" in done.stderr
    assert "`ray exec ray_cluster.yaml 'cat ~/.ray/auth_token'`" in done.stderr


def test_ssh_that_is_refused_is_named(story: Story) -> None:
    """With a key that the head does not know."""
    laptop = story.there.laptop
    laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/other")
    laptop.run("bash", "-c", "sed 's|/root/.ssh/key|/root/other|' ray_cluster.yaml > other.yaml")
    done = laptop.run(*_ours("status", "--cluster", "other.yaml"))
    assert done.returncode == 7
    assert "Permission denied" in done.stderr
    assert "`--local` searches on this machine" in done.stderr


def test_mlflow_comes_to_the_laptop(story: Story) -> None:
    """Through a tunnel, to the port that was asked for; Ctrl-C ends it."""
    laptop = story.there.laptop
    log = laptop.folder / "ui.log"
    words = " ".join(_ours("ui", "one", "--port", "5055"))
    process = laptop.start("bash", "-c", f"echo $$ > ui.pid; exec {words}", log=log)
    try:

        def is_open() -> bool:
            assert process.poll() is None, log.read_text()
            return "MLflow    http://127.0.0.1:5055" in log.read_text()

        until("MLflow's address", 240, is_open)
        ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5055/health').read().decode())"
        assert laptop.run(sys.executable, "-c", ask).stdout.strip() == "OK"
        laptop.run("bash", "-c", "kill -INT $(cat ui.pid)")
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
