"""Laws that hold for whatever is given: of texts, addresses, seeds, tests on images, gains, front probabilities, moves."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eed_search.config.addresses import password_problem, without_passwords
from eed_search.core.seeds import canonical_json, digest, seed_of
from eed_search.core.statistics import FEWEST_GAINS, clopper_pearson, next_gain, paired_difference, sure_difference
from eed_search.core.texts import as_utf8, visible
from eed_search.evaluation.sequential_test import beaten_by, interim_sizes, surely_behind
from eed_search.frontier.front_probability import front_probability
from eed_search.frontier.selection import plan_rounds, pooled, reported, validation_round
from eed_search.runs.moved import path_now
from eed_search.runs.records import Interval, pack_bits, unpack_bits
from eed_search.system.loopback import past_proxies

NAMES = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=6)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
FLAGS = st.lists(st.booleans(), min_size=1, max_size=64)


@given(st.text(max_size=40))
def test_nothing_that_is_shown_steers_a_terminal(text: str) -> None:
    """Ends of lines and tabs stay; what is shown once may be shown again."""
    shown = visible(text)
    assert visible(shown) == shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    assert [c for c in shown if c in "\n\t"] == [c for c in text if c in "\n\t"]


@given(st.binary(max_size=40))
def test_any_file_name_becomes_a_text_that_utf8_holds(name: bytes) -> None:
    text = as_utf8(name.decode("utf-8", "surrogateescape"))
    assert text.encode("utf-8").decode("utf-8") == text


@given(st.sampled_from(["http", "https", "postgresql", "mysql"]), NAMES, NAMES, NAMES)
def test_a_password_in_an_address_is_found_and_never_shown(scheme: str, user: str, secret: str, host: str) -> None:
    """Wherever in a text the address stands."""
    uri = f"{scheme}://{user}:SECRET{secret}@{host}.org/x"
    assert password_problem(uri)
    assert f"SECRET{secret}" not in without_passwords(f"cannot reach {uri}, nor '{uri}'")
    assert without_passwords(f"{scheme}://{host}.org/x") == f"{scheme}://{host}.org/x"


@given(st.dictionaries(NAMES, PLAIN, max_size=5), st.randoms())
def test_a_key_does_not_hang_on_the_order_of_settings(table: dict[str, Any], shuffle: Any) -> None:
    rows = list(table.items())
    shuffle.shuffle(rows)
    assert canonical_json(dict(rows)) == canonical_json(table)
    assert digest(dict(rows)) == digest(json.loads(canonical_json(table)))


@given(NAMES, NAMES, NAMES)
def test_each_purpose_has_a_seed_of_its_own(key: str, one: str, other: str) -> None:
    assert 0 <= seed_of(key, one) < 2**63
    assert (seed_of(key, one) == seed_of(key, other)) == (one == other)


@given(st.integers(1, 400), st.data())
def test_more_right_answers_never_lower_an_interval(num: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, num - 1))
    fewer, more = clopper_pearson(right, num), clopper_pearson(right + 1, num)
    assert fewer[0] <= more[0] <= more[1]
    assert fewer[1] <= more[1]
    assert fewer[0] <= right / num <= fewer[1]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_sure_difference_is_no_surer_than_a_plain_one(rows: list[tuple[bool, bool]]) -> None:
    """And turns round with its arguments."""
    first, second = (np.array(one) for one in zip(*rows, strict=True))
    value, low, high = sure_difference(first, second, confidence=0.95)
    plain = paired_difference(first, second)
    assert (value, low <= plain[1] + 1e-12, high >= plain[2] - 1e-12) == (plain[0], True, True)
    np.testing.assert_allclose(sure_difference(second, first, confidence=0.95), (-value, -high, -low), atol=1e-12)


@given(FLAGS, st.integers(0, 63))
def test_who_gets_one_more_image_right_is_no_sooner_behind(mine: list[bool], at: int) -> None:
    """Nobody is behind a twin, nor behind everything wrong."""
    flags = np.array(mine)
    ends = interim_sizes(len(flags))
    theirs = np.ones(len(flags), bool)
    better = flags.copy()
    better[at % len(flags)] = True
    assert surely_behind(flags, theirs, ends) >= surely_behind(better, theirs, ends)
    assert not surely_behind(flags, flags, ends)
    assert not surely_behind(flags, ~theirs, ends)
    assert beaten_by([Interval(1, 1, 1)], [flags], (), ends) == ()


@given(st.integers(1, 10_000))
def test_interim_tests_grow_to_all_images(num: int) -> None:
    ends = interim_sizes(num)
    assert ends[-1] == num
    assert list(ends) == sorted(set(ends))
    assert all(after <= 2 * before for before, after in itertools.pairwise(ends))


@given(st.integers(1, 500), st.integers(1, 20_000))
def test_fresh_images_are_dealt_once_and_the_last_slice_chooses_nothing(num_search: int, num_fresh: int) -> None:
    plan = plan_rounds(num_search, num_fresh)
    slices = [*plan.validation_rounds, plan.last]
    assert all(start < stop for start, stop in slices)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(slices))
    assert plan.last[1] == num_fresh


@given(st.dictionaries(NAMES, st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 4), st.floats(0, 1))
def test_the_surest_point_is_always_reported(sure: dict[str, float], number: int, threshold: float) -> None:
    """And a round lets only those go on who may still be there."""
    on = reported(list(sure.values()), threshold)
    assert on[int(np.argmax(list(sure.values())))]
    left = validation_round(number, sure, plan_rounds(100, 2000)).left
    assert all(sure[stays] > sure[gone] for stays in left for gone in sure if gone not in left)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 99))
def test_some_point_is_on_the_frontier_of_every_draw(num: int, images: int, seed: int) -> None:
    """So the probabilities sum to one at least, whatever is measured; a twin that is slower is never there."""
    rng = np.random.default_rng(seed)
    right = rng.random((num, images)) < 0.7
    latency = [Interval(ms, 0.99 * ms, 1.01 * ms) for ms in rng.uniform(1, 9, num)]
    sure = front_probability(right, latency, seed=seed, num_draws=50)
    assert sure.sum() >= 1 - 1e-9
    slower = Interval(20.0, 19.8, 20.2)
    assert front_probability(np.vstack([right, right[:1]]), [*latency, slower], seed=seed, num_draws=50)[-1] == 0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_measured_again_a_latency_stays_between_its_measurements(values: list[float]) -> None:
    """And its interval is no wider than the widest."""
    found = pooled([Interval(ms, 0.9 * ms, 1.1 * ms) for ms in values])
    assert min(values) * (1 - 1e-9) <= found.value <= max(values) * (1 + 1e-9)
    assert found.high / found.low <= 1.1 / 0.9 * (1 + 1e-9)


@given(FLAGS)
def test_flags_are_kept_in_as_few_digits_as_they_need(flags: list[bool]) -> None:
    text = pack_bits(np.array(flags))
    assert len(text) == 2 * -(-len(flags) // 8)
    assert unpack_bits(text, len(flags)).tolist() == flags


@given(NAMES, NAMES, NAMES)
def test_what_lay_in_a_home_lies_in_the_moved_one(before: str, below: str, gone: str) -> None:
    """If it is there; what lay outside stays where it is, also beside a home whose name begins alike."""
    then = f"/homes/{before}"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        (home / below).touch()
        assert path_now(f"{then}/{below}", then, home) == str(home / below)
        assert path_now(f"{then}x/{below}", then, home) == f"{then}x/{below}"
        assert path_now(f"{then}/{below}/{gone}", then, home) == f"{then}/{below}/{gone}"


@given(st.dictionaries(st.sampled_from(["http_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"]), NAMES))
def test_loopback_is_added_once_and_no_host_is_lost(environment: dict[str, str]) -> None:
    once = dict(environment)
    past_proxies(once)
    twice = dict(once)
    past_proxies(twice)
    assert once == twice
    for name in ("no_proxy", "NO_PROXY"):
        assert set(environment.get(name, "").split(",")) <= set(once.get(name, "").split(",")) | {""}
    assert {name: once[name] for name in environment if "no" not in name.lower()} == {
        name: value for name, value in environment.items() if "no" not in name.lower()
    }


@given(st.lists(st.floats(-1, 1), max_size=8), st.floats(-1, 1))
def test_where_the_next_gain_lies_moves_with_those_that_were_seen(gains: list[float], shift: float) -> None:
    """And as far; of fewer than three nothing is said."""
    found, moved = next_gain(np.array(gains)), next_gain(np.array(gains) + shift)
    assert (found is None) == (moved is None) == (len(gains) < FEWEST_GAINS)
    if found is not None and moved is not None:
        np.testing.assert_allclose(moved[0], found[0] + shift, atol=1e-9)
        np.testing.assert_allclose(moved[1], found[1], atol=1e-9)
