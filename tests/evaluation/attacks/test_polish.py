"""The small linear programs behind the last steps of a route, against a solver that is known to be right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from eed_search.evaluation.attacks.polish import RoutePolish, Rows, best_in_box
from tests.evaluation.attacks.linear_truth import ensemble


def rows_of(seed: int, *, num: int = 12, rows: int = 5, pixels: int = 40, ease: float = 0.0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(num, rows, pixels, generator=generator)
    slopes = slopes / slopes.abs().sum(-1, keepdim=True)
    return Rows(slopes, 0.3 * torch.randn(num, rows, generator=generator) + ease)


def exact(slopes: np.ndarray, offsets: np.ndarray) -> float:
    """The largest least row over the box, by HiGHS."""
    rows, pixels = slopes.shape
    found = linprog(
        np.append(np.zeros(pixels), -1.0),
        A_ub=np.hstack([-slopes, np.ones((rows, 1))]),
        b_ub=offsets,
        bounds=[*([(-1, 1)] * pixels), (None, None)],
        method="highs",
    )
    return -float(found.fun)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_point_of_the_box_is_found(seed: int) -> None:
    """Within five thousandths of what a row can change by; the point is in the box and reaches what is said."""
    rows = rows_of(seed)
    point, least = best_in_box(rows)
    true = [exact(a.numpy().astype(float), b.numpy().astype(float)) for a, b in zip(*rows, strict=True)]
    assert np.abs(least.numpy() - true).max() < 0.005
    assert (least.numpy() <= np.array(true) + 1e-5).all()
    assert float(point.abs().max()) <= 1.0
    reached = (torch.einsum("brp,bp->br", rows.slopes, point) + rows.offsets).amin(-1)
    assert torch.allclose(reached, least, atol=1e-5)


def test_only_what_cannot_reach_its_worth_is_given_up() -> None:
    rows = rows_of(7, num=60, ease=-0.35)
    _, least = best_in_box(rows, -0.02)
    true = np.array([exact(a.numpy().astype(float), b.numpy().astype(float)) for a, b in zip(*rows, strict=True)])
    given_up = torch.isinf(least).numpy()
    assert 0 < given_up.sum() < 60
    assert (true[given_up] < -0.02 + 1e-5).all()


def test_an_infinite_offset_is_no_row() -> None:
    rows = rows_of(1)
    more = Rows(
        torch.cat([rows.slopes, -rows.slopes[:, :1]], 1), torch.nn.functional.pad(rows.offsets, (0, 1), value=torch.inf)
    )
    assert torch.allclose(best_in_box(more)[1], best_in_box(rows)[1], atol=1e-4)


def test_what_is_given_back_lies_in_the_ball_and_leaves_the_generator_alone() -> None:
    given = ensemble(0, 40)
    images, labels = given.images, given.labels
    before = torch.get_rng_state()
    moved = RoutePolish("routes", given.team, eps=given.eps, steps=4, targets=2)(images, labels)
    assert bool((torch.get_rng_state() == before).all())
    assert float((moved - images).abs().max()) <= given.eps + 1e-6
    assert bool(((moved >= 0) & (moved <= 1)).all())
    wrong = given.team.decide(moved).labels != labels
    assert bool(wrong.any())
    assert bool((moved[~wrong] == images[~wrong]).all())
