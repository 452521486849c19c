"""A bundle from a stranger: nothing in it hangs a reader, fills its memory, leads elsewhere, steers a terminal or runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eed_search.core.errors import BundleError, EedSearchError
from eed_search.deployment import runtime, runtimes
from eed_search.deployment.bundle import verify
from eed_search.deployment.runtime import BundleFault, GatedClassifier
from eed_search.pipeline.targets import AttackOptions, from_bundle
from tests.cli.calling import call, environment
from tests.deployment import bundles
from tests.deployment.bundles import sign, sign_text
from tests.waiting import HANGS_S

FORGED = Path(runtime.__file__).read_bytes() + b"\nprint('mine')\n"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.make(tmp_path_factory.mktemp("made") / "sound")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """A bundle to be spoilt."""
    return shutil.copytree(sound, tmp_path / "copy")


def refused(folder: Path, said: str, *words: str) -> None:
    """Every reader refuses the bundle with one clear error: `verify`, `attack`, the runtime."""
    with pytest.raises(BundleFault, match=said):
        GatedClassifier(folder)
    with pytest.raises(BundleError, match=said):
        from_bundle(folder, AttackOptions(1), lambda text: None)
    refused_by_verify(folder, said, *words)


def refused_by_verify(folder: Path, said: str, *words: str) -> None:
    done = call("verify", folder, *words)
    assert done.exit_code == 8, done.output
    assert "unexpected" not in done.output
    assert "Traceback" not in done.output
    assert len(done.stderr) < 2000
    with pytest.raises(BundleError, match=said):
        verify(folder, strict="--strict" in words)


# ---------------------------------------------------------------- what is no file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def socket_(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


def folder(path: Path) -> None:
    path.mkdir()


def link_to_itself(path: Path) -> None:
    """To the same bytes elsewhere: right digest, and refused all the same."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "member-1.onnx"])
@pytest.mark.parametrize(
    "put", [pipe, socket_, folder, link("/dev/zero"), link("/dev/null"), link("nowhere"), link("."), link_to_itself]
)
def test_only_files_of_the_folder_itself_are_read(copy: Path, name: str, put: Callable[[Path], None]) -> None:
    """Nothing is opened that could wait, never end, or lie elsewhere."""
    if put is not link_to_itself:
        (copy / name).unlink()
    put(copy / name)
    refused(copy, f"{name}: is no regular file")


@pytest.mark.parametrize("put", [pipe, socket_, folder, link("/dev/zero"), link("nowhere"), link("/etc")])
def test_what_the_manifest_does_not_list_is_named(copy: Path, put: Callable[[Path], None]) -> None:
    put(copy / "more")
    refused_by_verify(copy, "more: is not in the manifest")


def test_a_linked_bundle_is_read(sound: Path, tmp_path: Path) -> None:
    """The user named it: only what lies in it is the stranger's."""
    (tmp_path / "best").symlink_to(sound)
    assert verify(tmp_path / "best").num_inputs == 9


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read as another user")
def test_a_file_that_may_not_be_read_is_named(copy: Path) -> None:
    (copy / "member-2.onnx").chmod(0o000)
    code = (
        "import os, sys; import eed_search.cli.export, eed_search.deployment.bundle, eed_search.search.attack_results\n"
        "from eed_search.cli.app import app; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "app(['verify', sys.argv[1]])"
    )
    for path in (copy, *copy.parents):
        path.chmod(path.stat().st_mode | 0o005)
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy)], env=environment(), capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 8, done.stderr
    assert "member-2.onnx: is missing or cannot be read (Permission denied)" in done.stderr


# ---------------------------------------------------------------- what is too much


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("manifest.json", r"manifest.json: has 1,099,511,627,776 bytes, and at most 4,194,304"),
        ("manifest.sha256", r"manifest.sha256: has 1,099,511,627,776 bytes, and at most 1,024"),
        ("member-1.onnx", r"member-1.onnx: has 1,099,511,627,776 bytes, and at most"),
        ("README.md", r"README.md: has 1,099,511,627,776 bytes, and at most"),
    ],
)
def test_a_file_that_is_too_large_is_not_read(copy: Path, name: str, said: str) -> None:
    """A tebibyte of holes takes no room on the disk."""
    with (copy / name).open("r+b") as file:
        file.truncate(1 << 40)
    refused(copy, said)


def test_files_that_are_too_large_together_are_not_read(copy: Path) -> None:
    for name in ("member-1.onnx", "member-2.onnx"):
        with (copy / name).open("r+b") as file:
            file.truncate((1 << 31) + 1)
    refused(copy, "bytes, and at most")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 300_000,
        b"",
        b"\xff",
        b"1" * 5000,
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "claims.json", "config.json"])
def test_json_of_any_depth_is_a_clear_error(copy: Path, name: str, text: bytes) -> None:
    if name == "manifest.json":
        sign_text(copy, text)
        refused(copy, "manifest.json: (is not JSON|is nested more than 50 deep)")
        return
    sign(copy, {name: text})
    with pytest.raises(BundleError, match=f"{name}: (is not JSON|is nested more than 50 deep)"):
        from_bundle(copy, AttackOptions(1), lambda text: None)
    if name == "claims.json":
        refused_by_verify(copy, "claims.json: (is not JSON|is nested more than 50 deep)")


@pytest.mark.parametrize(
    "claims",
    [
        [], "text", 7, {"robust_accuracy": {"badge": "proxy", "value": 1}}, {"checked": {}}, {"latency": {"speedup": {"value": "x"}}},
        {"robust_accuracy": {"badge": "proxy", "value": {}, "low": [], "high": None}},
    ],
)  # fmt: skip
def test_claims_of_another_form_are_a_clear_error(copy: Path, claims: object) -> None:
    sign(copy, {"claims.json": json.dumps(claims).encode()})
    refused_by_verify(copy, "claims.json: is not as an export writes it")


@pytest.mark.parametrize(
    "config", [[], "text", {"spec": []}, {"spec": {"data": 7}}, {"spec": {"plugins": ["runtime.py"]}}]
)
def test_settings_of_another_form_are_a_clear_error(copy: Path, config: object) -> None:
    sign(copy, {"config.json": json.dumps(config).encode()})
    with pytest.raises(EedSearchError):
        from_bundle(copy, AttackOptions(1), lambda text: None)
    with pytest.raises(EedSearchError):
        from_bundle(copy, AttackOptions(1, data=copy), lambda text: None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_shape": [-1, 4, 4]}, r"image_shape \[-1, 4, 4\]"),
        ({"image_shape": [10**30, 4, 4]}, "image_shape"),
        ({"num_classes": 10**300}, "classes"),
        ({"num_classes": -3}, "-3 classes"),
        ({"class_names": [[], {}, None]}, "class_names holds something else than text"),
        ({"format_version": 10**300}, r"format_version 1000\d*…; this runtime reads"),
        ({"format_version": -1}, "format_version -1"),
        ({"members": ["member-1.onnx"] * 100_000}, "are not different .onnx files"),
        ({"members": ["claims.json"]}, "are not different .onnx files"),
        ({"members": [["member-1.onnx"]]}, "is not a plain file name"),
        ({"gate": {"rule": "threshold", "threshold": 10**400, "sharpness": 1, "tau": 1}}, "gate.threshold: 1000"),
        ({"gate": {"rule": "threshold", "threshold": 1, "sharpness": 10**300, "tau": 1}}, "gate.sharpness: 1000"),
        ({"gate": {"rule": ["x"] * 10_000, "threshold": 1, "sharpness": 1, "tau": 1}}, "gate.rule: "),
        ({"gate": {str(i): 1 for i in range(10_000)}}, "gate holds"),
        ({"preprocessing": {"colour": "x" * 100_000}}, "preprocessing.colour is 'xxx"),
        ({"sha256": {f"{i}.onnx": "" for i in range(100_000)}, "members": []}, "lists 100,000 files"),
    ],
)
def test_a_manifest_of_any_numbers_is_a_clear_error(copy: Path, changes: dict[str, object], said: str) -> None:
    sign(copy, **changes)
    refused(copy, said)


@pytest.mark.parametrize(
    "name",
    [
        "../sound/claims.json",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "\x00",
        "a\nb",
        "\x1b]0;x\x07",
        "\ud800",
        "é",
        "x" * 5000,
    ],
)
def test_a_name_that_is_none_is_refused(copy: Path, name: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sha256"][name] = "0" * 64
    sign_text(copy, json.dumps(manifest).encode())
    refused(copy, "is not a plain file name with a SHA-256")


@pytest.mark.parametrize("name", ["numpy.py", "argparse.py", "sitecustomize.py", "member-9.onnx", "notes.txt"])
def test_a_file_that_no_export_writes_is_refused_though_it_is_listed(copy: Path, name: str) -> None:
    """Python would import numpy.py from beside the runtime.py that it runs."""
    sign(copy, {name: b"print('mine')"})
    refused_by_verify(copy, f"{name}: is listed in the manifest, and no export has ever written such a file")


def test_a_folder_of_very_many_files_is_refused_at_the_first(copy: Path) -> None:
    for i in range(3000):
        (copy / f"{i}").touch()
    refused_by_verify(copy, "is not in the manifest")


# ---------------------------------------------------------------- replay.npz


def npz(**arrays: object) -> bytes:
    given = {
        "images": bundles.IMAGES, "labels": np.zeros(9, np.int64), "members_run": np.ones(9, np.int64), "num_skipped": np.int64(0),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, **(given | arrays))
    return buffer.getvalue()


def bomb() -> bytes:
    """4 GiB of zeros in a few megabytes, as one array of that size."""
    buffer = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 26, 1, 4, 4)})
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(64):
            file.write(bytes(1 << 20))
    return _claiming(buffer.getvalue(), 1 << 31)


def _claiming(data: bytes, size: int) -> bytes:
    """Let an archive's directory claim that its one file unpacks to so many bytes."""
    at = data.rindex(b"PK\x01\x02") + 24
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


def header_alone(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """An array that says of itself to be huge."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    return buffer.getvalue()


def encrypted() -> bytes:
    """An archive that asks for a password."""
    data = bytearray(npz())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 4)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 no archive", "cannot be read"),
        (npz()[:-300], "cannot be read"),
        (npz(images=np.array([{}, []], dtype=object)), "images is object"),
        (npz(images=bundles.IMAGES.astype(np.float64)), "images is float64"),
        (npz(labels=np.array(["x"] * 9)), "labels is <U1"),
        (npz(num_skipped=np.zeros(3, np.int64)), "num_skipped is int64"),
        (npz(labels=np.zeros(8, np.int64)), "unequal numbers of answers"),
        (npz(images=bundles.IMAGES[:0], labels=np.zeros(0, np.int64), members_run=np.zeros(0, np.int64)), "holds no inputs"),
        (header_alone((1 << 40, 1, 4, 4)), "images is float32"),
        (header_alone((-1, -1, 4, 4)), "images is float32"),
        (header_alone((1 << 50, 1, 4, 4), "|V0"), "images is"),
        (encrypted(), "cannot be read"),
        (bomb(), "unpacks to 2,147,483,648 bytes, where at most 1,073,741,824 are read"),
        (npz(images=np.full_like(bundles.IMAGES, np.nan)), "values from nan"),
        (npz(images=np.zeros((9, 1, 4, 5), np.float32)), "shape"),
    ],
)  # fmt: skip
def test_stored_inputs_of_another_form_are_a_clear_error(copy: Path, data: bytes, said: str) -> None:
    """Sizes and kinds are looked at before anything is unpacked, and nothing is unpickled."""
    sign(copy, {"replay.npz": data})
    refused_by_verify(copy, said)


# ---------------------------------------------------------------- members


def altered_member(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(bundles.members()[0])
    change(model)
    return model.SerializeToString()


def outside(location: str) -> Callable[[onnx.ModelProto], None]:
    """Let the weights lie in another file."""

    def change(model: onnx.ModelProto) -> None:
        weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)

    return change


def outside_in_a_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["hidden"], value=tensor))


def endless(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(yes)
    model.graph.node.insert(0, helper.make_node("Loop", ["", "yes"], [], body=body))


def function(model: onnx.ModelProto) -> None:
    made = helper.make_function(
        "mine", "f", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], model.opset_import
    )
    model.functions.append(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside("/dev/zero"), "member-1.onnx: reads weights from another file"),
        (outside("../../etc/passwd"), "member-1.onnx: reads weights from another file"),
        (outside("weights.bin"), "member-1.onnx: reads weights from another file"),
        (outside_in_a_constant, "member-1.onnx: reads weights from another file"),
        (endless, "member-1.onnx: holds loops, branches or functions"),
        (function, "member-1.onnx: holds loops, branches or functions"),
    ],
)
def test_a_member_that_leads_elsewhere_is_refused(
    copy: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    """Before onnxruntime sees it."""
    sign(copy, {"member-1.onnx": altered_member(change)})
    refused(copy, said)


@pytest.mark.parametrize(
    "data",
    [
        b"no network", b"\xff" * 64, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3b", b"\x3a\x02\x0a\x7f",
        b"\x08\x00" * 250_001, b"\x20\x00\x00\x00ORTM" + bytes(100),
    ],
)  # fmt: skip
def test_a_member_that_is_no_network_is_refused(copy: Path, data: bytes) -> None:
    sign(copy, {"member-1.onnx": data})
    refused(copy, r"member-1.onnx: (is no ONNX network|onnxruntime .* cannot load it)")


def test_a_member_of_nothing_is_refused(copy: Path) -> None:
    sign(copy, {"member-1.onnx": b""})
    refused(copy, r"member-1.onnx: onnxruntime|member 1: takes")


def of_one_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def of_another_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nothing"


def of_huge_images(model: onnx.ModelProto) -> None:
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dimension.dim_value = 1 << 40


@pytest.mark.parametrize("change", [of_one_image, of_another_operator, of_huge_images])
def test_a_member_that_cannot_be_run_is_a_clear_error(copy: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    sign(copy, {"member-1.onnx": altered_member(change)})
    refused_by_verify(copy, "member")
    with pytest.raises(EedSearchError):
        from_bundle(copy, AttackOptions(1), lambda text: None)


def test_our_own_members_are_none_of_these(sound: Path) -> None:
    """What the exporters write holds neither functions nor sub-graphs nor external data."""
    assert GatedClassifier(sound).num_members == 2


# ---------------------------------------------------------------- the terminal


def test_no_name_steers_the_terminal(copy: Path) -> None:
    """Of a file, a class, a member, in any message."""
    (copy / "\x1b[2J\x9b31m\u202esdrow\nbest: sound").touch()
    done = call("verify", copy)
    assert done.exit_code == 8
    assert r"\x1b[2J\x9b31m\u202esdrow\nbest: sound: is not in the manifest" in done.stderr
    assert not {"\x1b", "\x9b", "\u202e"} & set(done.output)


def test_no_claim_steers_the_terminal(copy: Path) -> None:
    accuracy = {
        "badge": "\x1b[31mproxy",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "num_samples": 9,
        "attack": "\x1b]0;x\x07",
        "eps": 0.1,
    }
    sign(copy, {"claims.json": json.dumps({"robust_accuracy": accuracy}).encode()})
    done = call("verify", copy)
    assert done.exit_code == 0, done.output
    assert r"\u001b[31mproxy" in done.stdout
    assert not {"\x1b", "\x07"} & set(done.output)


def test_no_member_steers_the_terminal(copy: Path) -> None:
    """Its operators' names stand in onnxruntime's message."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = model.graph.node[0].name = "\x1b[31mx"

    sign(copy, {"member-1.onnx": altered_member(change)})
    done = call("verify", copy)
    assert done.exit_code == 8
    assert "\x1b" not in done.output


# ---------------------------------------------------------------- runtime.py


def test_a_foreign_runtime_is_said(copy: Path) -> None:
    """The bundle's networks are sound, its code is a stranger's."""
    sign(copy, {"runtime.py": FORGED})
    done = call("verify", copy)
    assert done.exit_code == 0, done.output
    assert f"{copy}: sound, but its runtime.py is foreign\n" in done.stdout
    said = " ".join(done.stdout.split())
    assert "warning: eed-search has never written this runtime.py (SHA-256 " in said
    assert "do not run it. Run the networks with your own, from another folder:" in said
    assert done.stdout.endswith(f"    python -m eed_search.deployment.runtime {copy} photo.jpg\n")
    refused_by_verify(copy, "runtime.py: is none that eed-search has written for bundles of format 3", "--strict")


def test_our_own_runtime_is_sound_strictly(sound: Path) -> None:
    done = call("verify", sound, "--strict")
    assert done.exit_code == 0, done.output
    assert f"{sound}: sound\n" in done.stdout
    assert "warning" not in done.stdout


def test_a_runtime_of_another_format_is_foreign(copy: Path) -> None:
    """An older one would not read the bundle."""
    code = (copy / "runtime.py").read_bytes()
    assert runtimes.is_shipped(code, 3)
    assert not runtimes.is_shipped(code, 2)
    assert not runtimes.is_shipped(code, 4)


def test_the_present_runtime_is_among_those_that_were_shipped() -> None:
    """After a change: `python -m eed_search.deployment.runtimes`, and commit runtimes.json with it."""
    code = Path(runtime.__file__).read_bytes()
    assert runtimes.is_shipped(code, runtime.FORMAT_VERSION), "python -m eed_search.deployment.runtimes adds it"


def test_every_format_has_its_runtimes() -> None:
    """Digests of files, none twice; the first and the last of the oldest format among them."""
    shipped = json.loads(runtimes.SHIPPED.read_text())
    assert list(shipped) == ["1", "2", "3"]
    everyone = [one for known in shipped.values() for one in known]
    assert len(set(everyone)) == len(everyone) >= 11
    assert all(len(one) == 64 and int(one, 16) for one in everyone)
    assert shipped["1"][0].startswith("1914856fdbdf")


def test_our_own_runtime_runs_a_strangers_networks(copy: Path, tmp_path: Path) -> None:
    """As the README and `verify` advise; nothing of the bundle is imported."""
    sign(copy, {"runtime.py": FORGED, "numpy.py": b"raise SystemExit('mine')"})
    np.save(tmp_path / "images.npy", bundles.IMAGES[:2])
    command = [sys.executable, "-m", "eed_search.deployment.runtime", str(copy), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert "mine" not in done.stdout


def test_verify_and_attack_run_nothing_of_a_bundle(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside the bundle, too, where its files would be imported first."""
    trace = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n".encode()
    sign(copy, {"runtime.py": code})
    for name in ("numpy.py", "json.py", "eed_search.py"):
        (copy / name).write_bytes(code)
    monkeypatch.chdir(copy)
    main = (
        "from eed_search.cli.app import app\n"
        "for words in (['verify', '.'], ['attack', '.', '--eps', '0.1']):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: print(end.code)"
    )
    command = [sys.executable, "-P", "-c", main]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=HANGS_S)
    assert done.stdout == "8\n4\n", done.stderr
    assert not trace.exists()


def test_the_readme_says_what_to_do_with_a_strangers_bundle(sound: Path) -> None:
    text = (sound / "README.md").read_text()
    assert "Is it from a stranger? `eed-search verify --strict DIR` first" in text
    assert "`python -m eed_search.deployment.runtime DIR photo.jpg`" in text


# ---------------------------------------------------------------- its search-space file


def test_a_search_space_that_names_code_is_said_and_not_run(copy: Path, tmp_path: Path) -> None:
    """A bundle's file may name its own runtime: `check` and a dry run leave it alone."""
    trace = tmp_path / "ran"
    space = "name: x\nthreat: {eps: 0.1}\nplugins: [runtime.py]\nsearch: {space: {score: [theirs]}}\n"
    code = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n".encode()
    sign(copy, {"search_space.yaml": space.encode(), "runtime.py": code})
    said = " ".join(call("verify", copy).stdout.split())
    assert "note: a launch of its search_space.yaml would run the code of runtime.py" in said
    for words in (["check", copy / "search_space.yaml"], ["launch", copy / "search_space.yaml", "--dry-run"]):
        done = call(*words, *(["--home", tmp_path / "home"] if words[0] == "launch" else []))
        assert done.exit_code == 0, done.output
        assert "not imported, since that runs your code" in done.stdout
    assert not trace.exists()


@pytest.mark.parametrize("put", [pipe, link("/dev/zero")])
def test_a_search_space_that_is_no_file_is_a_clear_error(copy: Path, put: Callable[[Path], None]) -> None:
    (copy / "search_space.yaml").unlink()
    put(copy / "search_space.yaml")
    done = call("check", copy / "search_space.yaml")
    assert done.exit_code == 3
    assert "is a pipe; give a file" in done.stderr or "larger than 1 MiB" in done.stderr


# ---------------------------------------------------------------- beside it, and elsewhere


@pytest.mark.parametrize("put", [pipe, link("/dev/zero"), folder])
def test_results_beside_a_bundle_that_are_no_file_are_none(copy: Path, put: Callable[[Path], None]) -> None:
    put(copy.parent / "copy.attacks.json")
    done = call("verify", copy)
    assert done.exit_code == 0, done.output


def test_a_bundle_by_url_is_read_where_it_lies(copy: Path) -> None:
    """A copy would follow its links."""
    url = f"file://{copy}"
    assert f"{url}: sound" in call("verify", url, "--strict").stdout
    link_to_itself(copy / "claims.json")
    done = call("verify", url)
    assert done.exit_code == 8
    assert "claims.json: is no regular file" in done.stderr


def test_digests_of_shipped_runtimes_are_of_files(copy: Path) -> None:
    digest = hashlib.sha256((copy / "runtime.py").read_bytes()).hexdigest()
    assert digest in json.loads(runtimes.SHIPPED.read_text())["3"]
