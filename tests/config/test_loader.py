"""Reading a search-space file: every kind of mistake with its text, all at once, and what is read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from eed_search.config.loader import Override, load, parse, to_text
from eed_search.config.spec import Choice, Search, Spec
from eed_search.core.errors import SpecError

MINIMAL = "name: t\nthreat: {eps: 0.1}\n"
EPS = "(L∞ budget in pixel units on [0, 1], such as 0.15 or 8/255)"
TOP = "name, seed, plugins, data, threat, model, base, members, team, joint, gate, evaluation, latency, baselines, search, resources, storage, tracking"
PARAMETERS = "num_members, subsets, recovery, order, beta, omega, gamma, gate_threshold, member1.method, member1.score, member1.size, …"


def _write(folder: Path, text: str) -> Path:
    file = folder / "case.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _problems(folder: Path, text: str, *sets: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(_write(folder, text), [Override.parse(one) for one in sets])
    return caught.value.problems


ONE_MISTAKE = {
    # unknown and missing keys
    "serch: {trials: 3}": f"serch: is not a key here; did you mean search? known: {TOP}",
    "xyz: 1": f"xyz: is not a key here; known: {TOP}",
    "3: 4": f"[3]: is not a key here; known: {TOP}",
    "base: {attack: {stesp: 1}}": "base.attack.stesp: is not a key here; did you mean steps? known: method, steps, step_size",
    "search: {space: {size: {low: 0.2}}}": "search.space.size.high: is missing; give a value (largest value)",
    # wrong types
    "model: 3": "model: 3 is not a section of keys",
    "model: null": "model: null is not a section of keys",
    "seed: '4'": "seed: '4' is not a number; allowed: 0..2147483647 (seed for splits, training, attacks and proposals)",
    "seed: true": "seed: true is not a number; allowed: 0..2147483647 (seed for splits, training, attacks and proposals)",
    "seed: 2.5": "seed: 2.5 is not a whole number; allowed: 0..2147483647 (seed for splits, training, attacks and proposals)",
    "base: {epochs: many}": "base.epochs: 'many' is not a number; allowed: 0..10000 (passes over the training images; 0 skips)",
    "base: {lr: null}": "base.lr: null is not a number; allowed: 0..10 without 0 (highest learning rate)",
    "base: {lr: .nan}": "base.lr: nan is not a number; allowed: 0..10 without 0 (highest learning rate)",
    "search: {time_budget_s: .inf}": "search.time_budget_s: inf is not a number; allowed: above 0 (no new trial after this long)",
    "data: {path: 3}": "data.path: 3 is not text (folder of the data)",
    "search: {space: {omega: {low: 0, high: 1, log: perhaps}}}": "search.space.omega.log: 'perhaps' is not true or false (drawn evenly on a logarithmic scale)",
    "team: {pool: {scores: nis}}": "team.pool.scores: 'nis': must be a list (importance scores of the pool's members)",
    # outside
    "seed: -1": "seed: -1 is outside the allowed 0..2147483647 (seed for splits, training, attacks and proposals)",
    "seed: 99999999999999999999999": "seed: 99999999999999999999999 is outside the allowed 0..2147483647 (seed for splits, training, attacks and proposals)",
    "search: {startup_trials: 0}": "search.startup_trials: 0 is outside the allowed 1 and more (random trials before a model is trusted)",
    "base: {momentum: 1}": "base.momentum: 1 is outside the allowed 0..1 without 1 (Nesterov momentum of SGD)",
    "model: {name: resnet50}": "model.name: 'resnet50' is not one of small_cnn, resnet18, vgg16_bn, mobilenet_v2, torchvision:NAME; did you mean resnet18?",
    "team: {pool: {scores: [nis, foo]}}": "team.pool.scores[1]: 'foo' is not one of nis, erm, ase, bnsf",
    "team: {pool: {scores: []}}": "team.pool.scores: []: is empty; give at least one value (importance scores of the pool's members)",
    "tracking: {experiment: ''}": "tracking.experiment: '': is empty; give at least one value (MLflow experiment that the runs belong to)",
    "baselines: {sizes: [0.5, 2]}": "baselines.sizes[1]: 2 is outside the allowed 0..1 without 0 (fraction of channels kept)",
    # the space
    "search: {space: {size: 0}}": "search.space.size: 0 is outside the allowed 0..1 without 0 (fraction of channels or weights kept)",
    "search: {space: {size: [0.5, 1.2]}}": "search.space.size[1]: 1.2 is outside the allowed 0..1 without 0 (fraction of channels or weights kept)",
    "search: {space: {size: {low: 0.2, high: 1.2}}}": "search.space.size.high: 1.2 is outside the allowed 0..1 without 0 (fraction of channels or weights kept)",
    "search: {space: {size: half}}": "search.space.size: 'half' is not a number; allowed: 0..1 without 0 (fraction of channels or weights kept)",
    "search: {space: {size: [0.5, 0.5]}}": "search.space.size: [0.5, 0.5] names a value twice",
    "search: {space: {size: []}}": "search.space.size: an empty list; give at least one value",
    "search: {space: {size: [true]}}": "search.space.size: true is neither text nor a finite number",
    "search: {space: {size: [[1]]}}": "search.space.size: [1] is neither text nor a finite number",
    "search: {space: {omega: .nan}}": "search.space.omega: nan is neither text nor a finite number",
    "search: {space: {num_members: 2.5}}": "search.space.num_members: 2.5 is not a whole number; allowed: 1..8 (members)",
    "search: {space: {num_members: {low: 1, high: 3, step: 0.5}}}": "search.space.num_members.step: 0.5 is not a whole number; allowed: whole steps (members)",
    "search: {space: {method: admm}}": "search.space.method: 'admm' is not one of prune, radmm, cstar, learned; did you mean radmm?",
    "search: {space: {method: [prune, radmm]}, first: [{member1.method: nis}]}": "search.first[0].member1.method: 'nis' is not one of search.space's prune, radmm",
    "search: {space: {method: radmm}}\nteam: {mode: pool}": "search.space.method: radmm does not look at scores, by which a pool's members differ; take prune, learned, or team.mode direct",
    "search: {space: {score: [nis, foo]}}": "search.space.score: 'foo' is not one of nis, erm, ase, bnsf",
    "search: {space: {score: {low: 0, high: 1}}}": "search.space.score: a range of numbers; allowed: one or a list of nis, erm, ase, bnsf",
    "search: {space: {omega: {low: 4, high: 1}}}": "search.space.omega: low 4 is above high 1",
    "search: {space: {omega: {low: 0, high: 1, log: true}}}": "search.space.omega: low must be above 0 where log is true",
    "search: {space: {omega: {low: 0, high: 1, step: 0}}}": "search.space.omega: step must be above 0, and without log",
    # keys that do not fit each other
    "data: {source: digits, path: x}": "data.path: digits come with scikit-learn; leave path out, or take source npz or cifar10",
    "data: {augment: crop_flip}": "data.augment: crop_flip would turn digits into other digits, or cut them off; take none",
    "data: {num_validation: 1700}": "data: 1900 images asked for; digits has 1,797 in all, and training needs at least 100",
    "data: {source: npz}": "data.path: is missing; source npz needs a folder (in the file or by --data)",
    "model: {name: resnet18}": "model.name: resnet18 shrinks images eightfold and learns from 16×16 and larger, these are 8×8; take small_cnn, or larger images",
    "model: {name: vgg16_bn}": "model.name: vgg16_bn shrinks images 32-fold and learns from 32×32 and larger, these are 8×8; take small_cnn, or larger images",
    "search: {space: {size: 0.05}}": "search.space.size: 0.05 of 64 channels is 3.2, which rounds to no block of 8; take a larger size, a smaller members.block or a wider model",
    "baselines: {sizes: [0.05]}": "baselines.sizes[0]: 0.05 of 64 channels is 3.2, which rounds to no block of 8; take a larger size, a smaller members.block or a wider model",
    "model: {width: 8}\nbaselines: {sizes: [1]}\nsearch: {space: {size: 0.5}}": "search.space.size: 0.5 of 8 channels is 4, which rounds to no block of 8; take a larger size, a smaller members.block or a wider model",
    # proposals tried first
    "search: {first: 3}": "search.first: 3 is not a list of proposals",
    "search: {first: [3]}": "search.first[0]: 3 is not a table of parameters such as num_members: 2",
    "search: {first: [{beta: [1]}]}": "search.first[0].beta: [1] is neither text nor a finite number",
    "search: {first: [{beta: 5}]}": "search.first[0].beta: 5 is outside search.space's 0.001..4",
    "search: {first: [{}, {num_members: 9}]}": "search.first[1].num_members: 9 is not one of search.space's 1, 2, 3",
    "search: {first: [{gmma: 1}]}": f"search.first[0].gmma: is not a parameter; did you mean gamma? known: {PARAMETERS}",
    "search: {first: [{member9.score: nis}]}": f"search.first[0].member9.score: is not a parameter; did you mean member1.score? known: {PARAMETERS}",
}


@pytest.mark.parametrize("text", ONE_MISTAKE)
def test_a_mistake_is_named_with_place_given_and_allowed(tmp_path: Path, text: str) -> None:
    """One wrong line gives exactly one message, with its exact text."""
    assert _problems(tmp_path, MINIMAL + text) == [f"case.yaml: {ONE_MISTAKE[text]}"]


@pytest.mark.parametrize("width", [4, 8, 12, 20, 64])
@pytest.mark.parametrize("size", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 1.0])
def test_a_size_that_rounds_to_no_block_is_refused(tmp_path: Path, width: int, size: float) -> None:
    """Half a block included, where pruning would keep a whole one; all channels are all channels, however few."""
    text = (
        f"{MINIMAL}model: {{width: {width}}}\nbaselines: {{sizes: [1]}}\nsearch: {{trials: 0, space: {{size: {size}}}}}"
    )
    refused = any("rounds to no block of 8" in problem for problem in _problems(tmp_path, text))
    assert refused == (size < 1 and Fraction(str(size)) * width <= 4)


def test_a_file_without_name_and_eps_says_both(tmp_path: Path) -> None:
    """The two keys without a default are asked for."""
    assert _problems(tmp_path, "threat: {}") == [
        "case.yaml: name: is missing; give a value (name of search and folder: letters, digits, . _ -)",
        f"case.yaml: threat.eps: is missing; give a value {EPS}",
    ]


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "a b", "x" * 65])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    """A name becomes a folder: it may not lead elsewhere."""
    assert _problems(tmp_path, f"name: '{name}'\nthreat: {{eps: 0.1}}") == [
        f"case.yaml: name: '{name}' is not allowed (name of search and folder: letters, digits, . _ -)"
    ]


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    """Wrong values, an unknown key and keys that do not fit each other stand in one list."""
    text = "name: t\nthreat: {eps: 8}\nmodel: {width: 1, depth: 3}\ndata: {source: npz}\nsearch: {space: {size: 2}, first: [{omega: 11}]}"
    assert _problems(tmp_path, text) == [
        f"case.yaml: threat.eps: 8 is outside the allowed 0..1 {EPS}",
        "case.yaml: model.width: 1 is outside the allowed 4..1024 (channels of the first stage)",
        "case.yaml: model.depth: is not a key here; did you mean width? known: name, width",
        "case.yaml: search.space.size: 2 is outside the allowed 0..1 without 0 (fraction of channels or weights kept)",
        "case.yaml: data.path: is missing; source npz needs a folder (in the file or by --data)",
        "case.yaml: search.first[0].omega: 11 is outside search.space's 0..10",
    ]


NOT_YAML = {
    "seed: 1\nseed: 2": "the key 'seed' stands twice, line 4",
    "data: {source: digits, source: npz}": "the key 'source' stands twice, line 3",
    "data: &a {source: digits}\nmodel: *a": "anchors and aliases are not used in search-space files",
    "? [a, b]\n: 1": "a list or table stands as a key, line 3",
    "? {a: b}\n: 1": "a list or table stands as a key, line 3",
    "a: [1, 2": "line 3: expected ',' or ']', but got '<stream end>'",
    "a: !!python/object/apply:os.system [ls]": "line 3: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
    "a: " + "[" * 20_000: "lists or tables are nested too deeply",
    "a: 2020-13-01": "month must be in 1..12",
}


@pytest.mark.parametrize("text", NOT_YAML, ids=lambda text: text[:20])
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    """Twice-given keys, aliases, foreign objects and broken text are refused with the line."""
    assert _problems(tmp_path, MINIMAL + text) == [f"{tmp_path / 'case.yaml'}: is not YAML: {NOT_YAML[text]}"]


@pytest.mark.parametrize(("text", "held"), [("", "nothing"), ("- a", "list"), ("a", "str")])
def test_a_file_that_holds_no_table_is_refused(tmp_path: Path, text: str, held: str) -> None:
    """An empty file or a list is not a search space."""
    assert _problems(tmp_path, text) == [f"{tmp_path / 'case.yaml'}: holds {held}, not a table of sections"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No file: say so and what to do."""
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "none.yaml")
    assert caught.value.problems == [
        f"{tmp_path / 'none.yaml'}: no such file; name a search-space file, or give none for the embedded digits"
    ]


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """More than 1 MiB is no search-space file."""
    file = _write(tmp_path, "#" * (1 << 20) + "#")
    with pytest.raises(SpecError, match=f"^{file}: larger than 1 MiB; a search-space file is a page of YAML$"):
        load(file)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text are refused."""
    file = tmp_path / "case.yaml"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match=f"^{file}: cannot be read"):
        load(file)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E2", 100.0), ("-0", 0.0), ("5", 5.0), ("0.5e1", 5.0)]
)
def test_numbers_without_a_point_are_numbers(tmp_path: Path, written: str, value: float) -> None:
    """YAML 1.1 takes 1e-3 and 0.5e1 for text; here they are numbers."""
    spec = load(_write(tmp_path, MINIMAL + f"search: {{space: {{omega: {written}}}}}"))
    assert spec.search.space.omega == Choice(values=(value,))


FULL = """
name: full
seed: 7
threat: {eps: 0.15}
team: {mode: pool, pool: {scores: [nis, bnsf], num_subsets: 2}}
base: {attack: {method: n_fgsm, step_size: 0.2}, clip_norm: 1}
search:
  time_budget_s: 60
  constraints: {min_clean_accuracy: 0.9}
  first: [{num_members: 2, member1.score: nis, member2.size: 0.25, beta: 0.5}]
  space: {num_members: [1, 2], size: {low: 0.25, high: 0.5, step: 0.125}, score: nis}
"""


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_the_resolved_file_reads_back_as_the_same_search(tmp_path: Path, text: str) -> None:
    """Written with every default and read again, nothing changes; nor when written once more."""
    spec = load(_write(tmp_path, text))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_text(spec), encoding="utf-8")
    assert load(resolved) == spec
    assert to_text(load(resolved)) == to_text(spec)
    assert parse(spec.to_plain(), "plain") == spec


# ---------------------------------------------------------------- --set


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("search.trials=8", ("search", "trials"), 8),
        ("seed=0", ("seed",), 0),
        ("search.space.size=[0.25, 0.5]", ("search", "space", "size"), [0.25, 0.5]),
        (
            "search.space.beta={low: 1e-3, high: 4, log: true}",
            ("search", "space", "beta"),
            {"low": 1e-3, "high": 4, "log": True},
        ),
        ("data.path=a=b", ("data", "path"), "a=b"),
        ("data.path=", ("data", "path"), None),
    ],
)
def test_set_reads_yaml_values(text: str, path: tuple[str, ...], value: object) -> None:
    """Numbers, lists and ranges are read as in a file; only the first = counts."""
    assert Override.parse(text) == Override(path, value)


@pytest.mark.parametrize("text", ["search.trials", "=3", "a..b=1", ".a=1", ""])
def test_set_without_key_or_sign_is_refused(text: str) -> None:
    """The form is said with an example."""
    with pytest.raises(SpecError) as caught:
        Override.parse(text)
    assert caught.value.problems == [f"--set {text!r}: must be key.path=value, such as search.trials=8"]


def test_set_with_broken_yaml_is_refused() -> None:
    """A value that is not YAML is shown."""
    with pytest.raises(SpecError) as caught:
        Override.parse("seed=[1")
    assert caught.value.problems == [
        "--set seed: '[1' is not a YAML value (line 1: expected ',' or ']', but got '<stream end>')"
    ]


def test_set_replaces_and_makes_sections(tmp_path: Path) -> None:
    """A key is replaced, a section that the file lacks is made; the last one wins."""
    sets = [Override.parse(one) for one in ("threat.eps=0.2", "search.trials=3", "search.trials=4")]
    spec = load(_write(tmp_path, MINIMAL), sets)
    assert (spec.threat.eps, spec.search.trials) == (0.2, 4)


def test_set_below_a_value_is_refused(tmp_path: Path) -> None:
    """A value is not a section."""
    assert _problems(tmp_path, MINIMAL, "name.first=x") == ["--set name.first: name is a value, not a section"]


def test_set_of_an_unknown_key_meets_the_same_check(tmp_path: Path) -> None:
    """What --set changes is checked as if it stood in the file."""
    known = ", ".join(Search.model_fields)
    assert _problems(tmp_path, MINIMAL, "search.trails=3") == [
        f"case.yaml: search.trails: is not a key here; did you mean trials? known: {known}"
    ]


FIRST = """
search:
  space: {size: [0.25, 0.5], num_members: [1, 2], beta: {low: 0.1, high: 1}}
  first:
    - {num_members: 1, member1.size: 0.25}
    - {num_members: 1, member1.size: 0.5}
    - {num_members: 2, member1.size: 0.5, member2.size: 0.25, beta: 0.5}
"""


def test_set_that_narrows_the_space_leaves_out_what_no_longer_fits(tmp_path: Path) -> None:
    """The file's proposals that fitted before go, with one note that says which and why."""
    notes: list[str] = []
    spec = load(_write(tmp_path, MINIMAL + FIRST), [Override.parse("search.space.size=[0.5]")], notes.append)
    assert spec.search.first == ({"num_members": 1, "member1.size": 0.5},)
    assert notes == [
        "case.yaml: left out of search.first, since --set changed the space:"
        " [0] member1.size: 0.25 is not one of search.space's 0.5;"
        " [2] member2.size: 0.25 is not one of search.space's 0.5"
    ]


@pytest.mark.parametrize("one", ["search.space.beta={low: 0.6, high: 1}", "search.space={size: [0.25, 0.5]}"])
def test_set_of_a_range_or_of_the_whole_space_leaves_out_too(tmp_path: Path, one: str) -> None:
    """However the space is changed; the second case widens beta, so that everything fits."""
    notes: list[str] = []
    spec = load(_write(tmp_path, MINIMAL + FIRST), [Override.parse(one)], notes.append)
    left_out = "beta" in one
    assert len(spec.search.first) == (2 if left_out else 3)
    assert [note.partition("space: ")[2] for note in notes] == (
        ["[2] beta: 0.5 is outside search.space's 0.6..1"] if left_out else []
    )


def test_a_proposal_that_does_not_fit_the_file_stays_a_mistake(tmp_path: Path) -> None:
    """Under its own number, though --set leaves an earlier one without a place; nothing is noted."""
    notes: list[str] = []
    wrong = MINIMAL + FIRST + "    - {num_members: 1, member1.size: 0.75}\n"
    with pytest.raises(SpecError) as caught:
        load(_write(tmp_path, wrong), [Override.parse("search.space.size=[0.5]")], notes.append)
    assert caught.value.problems == [
        "case.yaml: search.first[3].member1.size: 0.75 is not one of search.space's 0.5",
    ]
    assert notes == []


def test_a_proposal_given_by_set_that_does_not_fit_is_a_mistake(tmp_path: Path) -> None:
    """What the command line itself asks for is not left out silently."""
    sets = ("search.space.size=[0.5]", "search.first=[{member1.size: 0.25}]")
    assert _problems(tmp_path, MINIMAL + FIRST, *sets) == [
        "case.yaml: search.first[0].member1.size: 0.25 is not one of search.space's 0.5"
    ]


@pytest.mark.parametrize("one", ["search.space.size=[[1]]", "search.space=3", "search=3", "search.first=3"])
def test_a_space_broken_by_set_is_one_mistake(tmp_path: Path, one: str) -> None:
    """Whatever stands in the way of comparing the spaces, the check names it alone."""
    assert len(_problems(tmp_path, MINIMAL + FIRST, one)) == 1


# ---------------------------------------------------------------- the files that ship

FOLDER = Path(__file__).parents[2] / "search_spaces"
SHIPPED = sorted(set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("benchmark_*.yaml")))  # those have tests of their own


def test_search_spaces_are_found() -> None:
    """The parametrised test below has something to check."""
    assert "digits.yaml" in [file.name for file in SHIPPED]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_file_passes(file: Path, tmp_path: Path) -> None:
    """With a folder in place of data that are not shipped, every file is right."""
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    needs_data = plain.get("data", {}).get("source", "digits") != "digits"
    spec = load(file, [Override(("data", "path"), str(tmp_path))] if needs_data else [])
    assert isinstance(spec, Spec)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_file_without_its_data_says_only_that(file: Path) -> None:
    """A file whose data are not shipped asks for their folder and for nothing else."""
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    source = plain.get("data", {}).get("source", "digits")
    if source == "digits":
        pytest.skip("its data come with scikit-learn")
    with pytest.raises(SpecError) as caught:
        load(file)
    assert caught.value.problems == [
        f"{file.name}: data.path: is missing; source {source} needs a folder (in the file or by --data)"
    ]


def test_the_budget_may_be_a_fraction() -> None:
    """As people write it."""
    assert parse({"name": "t", "threat": {"eps": "8/255"}}, "f").threat.eps == 8 / 255
