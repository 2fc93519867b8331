"""Sketches: what reordering leaves alone, and how well they tell how far two tensors are apart."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.sketches import sketch

RNG = np.random.default_rng(0)
PICTURE = RNG.standard_normal((2, 6, 9, 9)).astype(np.float32)


def apart(one, other) -> float:
    return float(np.sqrt(np.mean((np.array(one) - np.array(other)) ** 2)))


def test_another_layout_has_the_same_projections_along_the_axes():
    moved = sketch(PICTURE.transpose(0, 2, 3, 1))
    assert min(apart(axes, moved.axes[0]) for axes in sketch(PICTURE, every_order=True).axes) < 1e-12
    assert apart(sketch(PICTURE).flat, moved.flat) > 0.5


def test_two_axes_of_one_size_that_change_places_are_found_in_every_order():
    turned = sketch(PICTURE.transpose(0, 1, 3, 2))
    assert apart(sketch(PICTURE).axes[0], turned.axes[0]) > 0.5
    assert min(apart(axes, turned.axes[0]) for axes in sketch(PICTURE, every_order=True).axes) < 1e-12


def test_a_reshape_leaves_the_projections_along_the_elements_alone():
    assert apart(sketch(PICTURE).flat, sketch(PICTURE.reshape(2, -1)).flat) < 1e-12


@pytest.mark.parametrize(
    "difference",
    [
        RNG.standard_normal(PICTURE.shape) * 0.01,
        (RNG.random(PICTURE.shape) < 0.01) * 0.1,
        np.eye(9)[None, None] * 0.05 + np.zeros(PICTURE.shape),
    ],
    ids=["everywhere", "in a few elements", "along a diagonal"],
)
def test_projections_tell_how_far_two_tensors_are_apart(difference):
    really = float(np.sqrt(np.mean(difference**2)))
    one, other = sketch(PICTURE.astype(np.float64)), sketch(PICTURE + difference)
    assert really / 2 < apart(one.flat, other.flat) < really * 2
    assert really / 3 < apart(one.axes[0], other.axes[0]) < really * 3


def test_blocks_make_no_difference(monkeypatch):
    whole = sketch(PICTURE)
    monkeypatch.setattr("registry_export.sketches._MOST_AT_ONCE", 100)
    assert apart(whole.axes[0], sketch(PICTURE).axes[0]) < 1e-12


def test_a_constant_and_a_handful_of_numbers_say_nothing():
    assert not sketch(np.zeros((4, 5), np.float32)).says
    assert not sketch(np.full((4, 5), 3, np.float32)).says
    assert not sketch(np.array([1.0, 2.0])).says
    assert sketch(PICTURE).says


def test_what_is_not_finite_is_counted_and_spoils_nothing():
    masked = PICTURE.copy()
    masked[0, 0, 0, :3] = [np.nan, -np.inf, np.finfo(np.float32).min]
    found = sketch(masked)
    assert found.odd == 3
    assert np.isfinite(found.moments).all()
    assert np.isfinite(found.flat).all()
