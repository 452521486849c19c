"""Judges how safe a cluster file is: pure rules, no network, no Ray, no cloud library.

`findings` gives a finding for every setting that keeps strangers out, secrets in and costs bounded. The
rules that hold everywhere stand here; those of one provider in `hardening_aws` and `hardening_local`.
What a file cannot show, such as the rules of a security group, is said as a note.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from eed_search.cluster import hardening_aws, hardening_local
from eed_search.cluster.cluster_file import NODE_TOKEN, ClusterFile
from eed_search.cluster.finding import Finding
from eed_search.cluster.shell import Call, calls

MAX_IDLE_MINUTES = 60
MIN_TOKEN_CHARACTERS = 32
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_SECRETS = (".aws", ".ssh", ".azure", ".kube", ".config/gcloud", ".netrc", ".pgpass", ".docker", ".gnupg")
_MAKE_TOKEN = "(umask 077; ray get-auth-token --generate > /dev/null)"
_NOT_JUDGED = "the network's rules, the disks' encryption and the machines' rights cannot be judged for {}"


def findings(cluster: ClusterFile) -> list[Finding]:
    """Judge a cluster file.

    Args:
        cluster: As `cluster_file.read` gives it; the token file that it names is looked at too.

    Returns:
        A finding for each setting, in the order of the file's sections as far as possible.
    """
    findings: list[Finding] = []
    try:
        for section in (*SETUP, *STARTS):
            list(calls(_commands(cluster, section)))
    except ValueError as error:
        fix = "close the quotes, then ask again"
        return [Finding("wrong", "commands", f"cannot be read as a shell command: {error}", fix)]
    for rule in (_cap, _idle, _login, _token_file, _token_mode, _mounts, _installs, _head, _workers, _mlflow):
        findings += rule(cluster)
    if cluster.provider == "aws":
        findings += hardening_aws.findings(cluster)
    elif cluster.is_local:
        findings += hardening_local.findings(cluster)
    else:
        text = _NOT_JUDGED.format(cluster.provider)
        fix = "check by hand: SSH from your address only, encrypted disks, a service account of its own without other rights"
        findings.append(Finding("note", "provider.type", text, fix))
    return findings


def _commands(cluster: ClusterFile, *sections: str) -> list[str]:
    found: list[str] = []
    for section in sections:
        value = cluster.raw.get(section)
        found += [command for command in value if isinstance(command, str)] if isinstance(value, list) else []
    return found


def _cap(cluster: ClusterFile) -> Iterator[Finding]:
    cap = cluster.raw.get("max_workers")
    if isinstance(cap, int) and not isinstance(cap, bool) and cap >= 0:
        yield Finding("ok", "max_workers", f"at most {cap} worker{'' if cap == 1 else 's'}")
    else:
        yield Finding(
            "wrong", "max_workers", "no cap on the number of workers", "set max_workers to what you would pay for"
        )


def _idle(cluster: ClusterFile) -> Iterator[Finding]:
    minutes = cluster.raw.get("idle_timeout_minutes")
    what = "idle_timeout_minutes"
    if isinstance(minutes, int | float) and not isinstance(minutes, bool) and 0 < minutes <= MAX_IDLE_MINUTES:
        yield Finding("ok", what, f"an idle worker ends after {minutes:g} min")
    else:
        given = "is not set" if minutes is None else f"{minutes!r} keeps idle workers too long"
        yield Finding("wrong", what, given, f"set it to between 1 and {MAX_IDLE_MINUTES}, such as 10")


def _login(cluster: ClusterFile) -> Iterator[Finding]:
    if cluster.ssh_user == "root":
        fix = "make a user for the cluster, and name it in auth.ssh_user"
        yield Finding("note", "auth.ssh_user", "everything runs as root", fix)
    else:
        yield Finding("ok", "auth.ssh_user", f"{cluster.ssh_user}, not root")


def _token_file(cluster: ClusterFile) -> Iterator[Finding]:
    what, path = f"file_mounts.{NODE_TOKEN}", cluster.token_file
    if path is None:
        text = "no token is mounted: whoever reaches a port of Ray runs code there"
        yield Finding("wrong", what, text, f'add "{NODE_TOKEN}": "~/.ray/auth_token", and make it: {_MAKE_TOKEN}')
        return
    try:
        mode = path.stat().st_mode
        length = len(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        yield Finding("wrong", what, f"{path} does not exist on this machine", _MAKE_TOKEN)
        return
    except (OSError, ValueError) as error:
        yield Finding("wrong", what, f"{path} cannot be read ({error})", f"remove it and make it anew: {_MAKE_TOKEN}")
        return
    if stat.S_IMODE(mode) & 0o077:
        text = f"{path} may be read by others (mode {stat.S_IMODE(mode):04o})"
        yield Finding("wrong", what, text, f"chmod 600 {path}")
    elif length < MIN_TOKEN_CHARACTERS:
        text = f"{path} holds {length} characters, fewer than {MIN_TOKEN_CHARACTERS}"
        yield Finding("wrong", what, text, f"remove it and make it anew: {_MAKE_TOKEN}")
    else:
        yield Finding("ok", what, f"{path}, for its owner alone")


def _token_mode(cluster: ClusterFile) -> Iterator[Finding]:
    """The nodes' copy is for its owner alone, and no command shows the token itself."""
    what = "setup_commands"
    all_calls = list(calls(_commands(cluster, *SETUP, *STARTS)))
    closed = [
        call
        for call in all_calls
        if call.runs("chmod")
        and call.words[1:2]
        and call.words[1] in ("600", "0600", "400", "0400", "go-rwx", "u=rw,go=")
        if any(PurePosixPath(word).parts[-2:] == NODE_TOKEN.parts[-2:] for word in call.words[2:])
    ]
    if closed:
        yield Finding("ok", what, "the nodes' token is for its owner alone")
    else:
        text = "nothing makes sure that the token on the nodes is for its owner alone"
        yield Finding("wrong", what, text, f"add to setup_commands: chmod 600 {NODE_TOKEN}")
    if shown := [call.text for call in all_calls if "RAY_AUTH_TOKEN" in call.environment]:
        text = f"the token itself stands in a command, for every process list to see: {_short(shown[0])}"
        yield Finding("wrong", "RAY_AUTH_TOKEN", text, "leave it out; Ray reads the mounted file")
    elif re.search(r"RAY_AUTH_TOKEN'?\s*[=:]", str(cluster.raw)):
        yield Finding(
            "wrong", "RAY_AUTH_TOKEN", "the token itself stands in the file", "leave it out; Ray reads the mounted one"
        )


def _mounts(cluster: ClusterFile) -> Iterator[Finding]:
    mounts = cluster.raw.get("file_mounts") or {}
    for remote, local in mounts.items():
        if secret := next((name for name in _SECRETS if _lies_in(local, name) or _lies_in(remote, name)), None):
            text = f"puts your ~/{secret} on every node"
            fix = "take it out; give the nodes a right of their own, such as an instance profile"
            yield Finding("wrong", f"file_mounts.{remote}", text, fix)


def _lies_in(path: object, folder: str) -> bool:
    return isinstance(path, str) and re.search(rf"(^|/){re.escape(folder)}(/|$)", path) is not None


def _installs(cluster: ClusterFile) -> Iterator[Finding]:
    installs = [
        call
        for call in calls(_commands(cluster, *SETUP))
        if call.runs("pip", "install") or call.runs("pip3", "install")
    ]
    loose = [call for call in installs if not _is_pinned(call)]
    if loose:
        text = f"takes whatever versions are newest: {_short(loose[0].text)}"
        yield Finding("note", "pip install", text, "add -c constraints.txt, or write name==version")
    elif installs:
        yield Finding("ok", "pip install", "versions are pinned")


def _is_pinned(call: Call) -> bool:
    if any(call.options(name) for name in ("-c", "--constraint")):
        return True
    wanted = [word for word in call.words[2:] if not word.startswith("-")]
    return bool(wanted) and all("==" in word for word in wanted)


def _head(cluster: ClusterFile) -> Iterator[Finding]:
    what = "head_start_ray_commands"
    starts = [call for call in calls(_commands(cluster, what)) if call.runs("ray", "start")]
    yield from _authenticated(what, starts)
    if not starts:
        return
    hosts = [(start.options("--dashboard-host") or [""])[-1] for start in starts]
    if all(host in LOOPBACK for host in hosts):
        yield Finding("ok", f"{what}: --dashboard-host", f"the dashboard and its Jobs API listen on {hosts[0]}")
    else:
        open_to = next(host for host in hosts if host not in LOOPBACK)
        text = (
            f"the dashboard, where jobs are submitted, listens on {open_to}"
            if open_to
            else "the dashboard's address is not set"
        )
        yield Finding(
            "wrong", f"{what}: --dashboard-host", text, "set --dashboard-host=127.0.0.1; ssh brings you there"
        )


def _workers(cluster: ClusterFile) -> Iterator[Finding]:
    what = "worker_start_ray_commands"
    yield from _authenticated(what, [call for call in calls(_commands(cluster, what)) if call.runs("ray", "start")])


def _authenticated(what: str, starts: Sequence[Call]) -> Iterator[Finding]:
    if not starts:
        text = "no `ray start` here: Ray fills in its own, without a token"
        yield Finding("wrong", what, text, "copy this section from ray_cluster.yaml")
        return
    modes = {call.environment.get("RAY_AUTH_MODE", "") for call in starts}
    if modes == {"token"}:
        yield Finding("ok", f"{what}: RAY_AUTH_MODE", "Ray asks for the token")
    else:
        given = next(iter(modes - {"token"}))
        text = f"is {given!r}, so Ray asks nobody for a token" if given else "is not set for `ray start`"
        yield Finding("wrong", f"{what}: RAY_AUTH_MODE", text, "write RAY_AUTH_MODE=token right before ray start")


def _mlflow(cluster: ClusterFile) -> Iterator[Finding]:
    all_calls = list(calls(_commands(cluster, *SETUP, *STARTS)))
    own = [call for call in all_calls if call.runs("eed-search", "mlflow-server")]
    foreign = [call for call in all_calls if call.runs("mlflow", "server") or call.runs("mlflow", "ui")]
    fix = "start it by `eed-search mlflow-server --background`, which does all this"
    if not own and not foreign:
        yield Finding("note", "MLflow", "no MLflow server is started", f"to see all searches in one place: {fix}")
    for call in foreign:
        host = call.options("--host") + call.options("-h")
        if any(address not in LOOPBACK for address in host):
            yield Finding("wrong", "MLflow: --host", f"listens on {host[-1]}, and asks nobody who they are", fix)
        if "--disable-security-middleware" in call.words:
            yield Finding("wrong", "MLflow: --disable-security-middleware", "any web page may call it", fix)
        if call.environment.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") != "false":
            yield Finding("wrong", "MLflow: MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "it may run jobs", fix)
        if not call.options("--allowed-hosts"):
            yield Finding("wrong", "MLflow: --allowed-hosts", "by default it answers to every private address", fix)
    hosts = [host for call in foreign for given in call.options("--allowed-hosts") for host in given.split(",")]
    hosts += [host for call in own for host in call.options("--allow-host")]
    if wild := [host for host in hosts if "*" in host.removesuffix(":*")]:  # any port of an exact host is fine
        text = f"{wild[0]!r} lets other web pages reach it through your browser"
        yield Finding("wrong", "MLflow: allowed hosts", text, "name each host exactly; the port may be *")
    if own and not wild:
        yield Finding("ok", "MLflow", "listens on loopback, answers to exact hosts, runs no jobs")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}…"
