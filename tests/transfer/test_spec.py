"""Benchmark files: what they may say, and how their mistakes read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eed_search.config.loader import Override
from eed_search.config.loader import load as load_space
from eed_search.core.errors import SpecError
from eed_search.transfer.spec import BenchmarkSpec, eps_text
from eed_search.transfer.spec_file import load, parse, to_text

MINIMAL = "name: a\nmodels: [{name: small_cnn, width: 8}]\n"
FOLDER = Path(__file__).parents[2] / "search_spaces"
SHIPPED = sorted(FOLDER.glob("benchmark_*.yaml"))


def _mistakes(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(yaml.safe_load(text), "b.yaml")
    return caught.value.problems


def _spec(text: str) -> BenchmarkSpec:
    return parse(yaml.safe_load(text), "b.yaml")


def test_the_defaults_are_the_protocol_s() -> None:
    """Every scheme, three ratios, eight attacks, four budgets, three seeds, two points of margin, clean training."""
    spec = _spec(MINIMAL)
    assert (len(spec.schemes), spec.ratios, spec.seeds, spec.margin) == (7, (0.25, 0.5, 0.75), (0, 1, 2), 0.02)
    assert [attack.label for attack in spec.attacks] == [
        "fgsm", "bim10", "pgd20", "mifgsm10", "deepfool", "cw", "square", "autoattack",
    ]  # fmt: skip
    assert spec.eps == (2 / 255, 4 / 255, 8 / 255, 16 / 255)
    assert spec.base.attack.method == spec.finetune.attack.method == "none"


def test_autoattack_has_its_usual_strength() -> None:
    """100 steps and 5,000 queries; whoever gives less sees that in the label."""
    spec = _spec(MINIMAL + "attacks: [autoattack, {name: autoattack, steps: 10, queries: 50}]")
    assert (spec.attacks[0].spent_steps, spec.attacks[0].spent_queries) == (100, 5000)
    assert [attack.label for attack in spec.attacks] == ["autoattack", "autoattack-10-50"]


def test_a_number_behind_an_attack_is_its_steps() -> None:
    """`pgd7` is short for a table."""
    (attack,) = _spec(MINIMAL + "attacks: [pgd7]").attacks
    assert (attack.name, attack.steps) == ("pgd", 7)


def test_minimum_norm_attacks_have_no_budget() -> None:
    """DeepFool and C&W are one case each, the others one for each budget, their own where they have some."""
    spec = _spec(MINIMAL + "eps: [8/255, 0]\nattacks: [deepfool, fgsm, {name: square, eps: [0.1]}]")
    assert [case.label for case in spec.cases()] == ["deepfool", "fgsm @ 8/255", "fgsm @ 0", "square @ 0.1"]


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.1, "0.1"), (0.0, "0"), (0.15, "0.15")])
def test_budgets_read_as_people_write_them(eps: float, text: str) -> None:
    """Grey levels where they are whole."""
    assert eps_text(eps) == text


def test_a_file_is_read_back_as_it_was() -> None:
    """Every default filled in."""
    spec = _spec(MINIMAL + "eps: [8/255]")
    assert parse(yaml.safe_load(to_text(spec)), "again") == spec


def test_every_mistake_is_named_at_once() -> None:
    """Place, given, allowed, closest key; a wrong entry does not make its list empty."""
    assert _mistakes(
        "name: a\nmodels: [{name: small_cnn, widht: 8}]\nschemes: [l1]\nratios: [1.2]\nattacks: [pgd20, foo]\n"
        "eps: [x, 3, true]\nmargn: 3\nseeds: []\nbatch_size: 0"
    ) == [
        "b.yaml: seeds: []: is empty; give at least one value (whole repetitions; three or more for claims)",
        "b.yaml: models[0].widht: is not a key here; did you mean width? known: name, width",
        "b.yaml: schemes[0]: 'l1' is not one of l1_filter, l2_filter, geometric_median, bn_gamma, taylor, random_filter,"
        " unstructured_magnitude",
        "b.yaml: ratios[0]: 1.2 is outside the allowed 0..1 without 1 (share of every layer's filters or weights removed)",
        "b.yaml: attacks[1].name: 'foo' is not one of fgsm, bim, pgd, mifgsm, deepfool, cw, square, autoattack",
        "b.yaml: eps[0]: 'x' is not a number; write 0.03 or 8/255",
        "b.yaml: eps[1]: 3 is outside the allowed 0..1 (L∞ budget in pixel units on [0, 1])",
        "b.yaml: eps[2]: true is not a number; write 0.03 or 8/255",
        "b.yaml: batch_size: 0 is outside the allowed 1..65536 (images attacked at once)",
        "b.yaml: margn: is not a key here; did you mean margin? known: name, seeds, data, models, schemes, ratios, finetuned,"
        " block, score_samples, attacks, eps, margin, base, finetune, train_eps, batch_size, latency, threads, device, tracking, plugins",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "mistake"),
    [
        ("attacks: [{name: cw, eps: [0.1]}]", "attacks[0].eps: cw looks for the nearest wrong image and has no budget; leave it out"),
        ("attacks: [{name: fgsm, steps: 3}]", "attacks[0].steps: fgsm takes none; leave it out"),
        ("attacks: [{name: pgd, queries: 3}]", "attacks[0].queries: pgd asks none; leave it out"),
        ("attacks: [{name: pgd, c: 3}]", "attacks[0].c: belongs to cw; leave it out"),
        ("attacks: [pgd, pgd20]", "attacks: 'pgd20' stands twice; name each once"),
        ("seeds: [1, 1]", "seeds: 1 stands twice; name each once"),
        ("base: {attack: {method: pgd}}", "base.attack.method: pgd needs a budget; give train_eps"),
        ("train_eps: 0.1", "train_eps: neither base.attack nor finetune.attack uses it; give a method, or leave it out"),
        ("finetune: {epochs: 0}", "finetune.epochs: 0 does not fine-tune; take finetuned: [false]"),
        ("data: {num_test: 1700}", "data: 1720 images asked for; digits has 1,797 in all, and training needs at least 100"),
        ("data: {source: npz}", "data.path: is missing; source npz needs a folder (in the file or by --data)"),
        ("data: {augment: crop_flip}", "data.augment: crop_flip would turn digits into other digits, or cut them off; take none"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_each_other(more: str, mistake: str) -> None:
    """Each has its own sentence."""
    assert _mistakes(MINIMAL + more) == [f"b.yaml: {mistake}"]


def test_the_two_kinds_of_files_know_each_other(tmp_path: Path) -> None:
    """Given to the wrong command, a file says which is its own."""
    with pytest.raises(
        SpecError, match=r"^digits.yaml: is a search-space file; run `eed-search launch .*digits.yaml`$"
    ):
        load(FOLDER / "digits.yaml")
    with pytest.raises(SpecError, match=r"^benchmark_digits.yaml: is a benchmark file; run `eed-search benchmark "):
        load_space(FOLDER / "benchmark_digits.yaml")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_benchmark_passes(file: Path, tmp_path: Path) -> None:
    """With a folder in place of data that are not shipped."""
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    needs_data = plain.get("data", {}).get("source", "digits") != "digits"
    spec = load(file, [Override(("data", "path"), str(tmp_path))] if needs_data else [])
    assert spec.name == file.stem.replace("_", "-")


@pytest.mark.usefixtures("forgets_plugins")
def test_a_model_of_the_user_s_own_can_be_named(tmp_path: Path) -> None:
    """By a file under `plugins`, beside the benchmark's."""
    (tmp_path / "mine_for_a_benchmark.py").write_text(
        "from eed_search import plugins\n"
        "@plugins.model('mine_for_a_benchmark')\n"
        "def make(width, num_classes, in_channels, mean, std):\n"
        "    raise NotImplementedError\n"
    )
    text = "name: a\nmodels: [{name: mine_for_a_benchmark}]\n"
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"b.yaml: models\[0\].name: 'mine_for_a_benchmark' is not one of"):
        load(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").write_text(text + "plugins: [mine_for_a_benchmark.py]\n")
    assert load(tmp_path / "b.yaml").models[0].name == "mine_for_a_benchmark"


def test_reading_a_file_loads_no_torch() -> None:
    """Help and mistakes come at once."""
    code = "import sys; import eed_search.transfer.spec_file; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
