from __future__ import annotations

import contextlib
import math
import warnings

import bjontegaard
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from enhancer.bd_batch import pchip_deltas
from enhancer.bd_rate import (
    METHODS,
    RdCurve,
    RdPoint,
    bd_quality,
    bd_rate,
    bootstrap_bd,
    mean_curve,
    quality_overlap,
    rate_overlap,
)


def curve(rates, values, *, label="codec", metric="psnr"):
    return RdCurve(label, metric, tuple(RdPoint(float(r), float(v)) for r, v in zip(rates, values, strict=True)))


def random_curve(rng, points):
    """A plausible curve: 0.05 to 3 bpp, 2 to 6 dB an octave."""
    octaves = np.cumsum(rng.uniform(0.3, 1.2, points))
    rates = rng.uniform(0.05, 0.1) * 2.0**octaves
    values = rng.uniform(26, 29) + np.cumsum(np.diff(octaves, prepend=0.0) * rng.uniform(2, 6, points))
    return rates, values


ANCHOR = curve([0.1, 0.2, 0.4, 0.8], [28.0, 31.0, 34.0, 37.0])


def test_1000_random_curves_agree_with_the_bjontegaard_package():
    rng = np.random.default_rng(7)
    differences = []
    while len(differences) < 2000:
        (rate_a, value_a), (rate_b, value_b) = (random_curve(rng, int(rng.integers(4, 8))) for _ in range(2))
        if min(value_a[-1], value_b[-1]) <= max(value_a[0], value_b[0]):
            continue
        anchor, test = curve(rate_a, value_a), curve(rate_b, value_b)
        method = METHODS[len(differences) // 2 % 3]
        options = {"method": method, "require_matching_points": False, "min_overlap": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rate = bjontegaard.bd_rate(rate_a, value_a, rate_b, value_b, **options)
            quality = bjontegaard.bd_psnr(rate_a, value_a, rate_b, value_b, **options)
        differences.append(bd_rate(anchor, test, method=method) - rate)
        differences.append(bd_quality(anchor, test, method=method) - quality)
    assert np.abs(differences).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.25])
def test_a_codec_that_needs_a_constant_share_of_the_bits_saves_exactly_that(method, factor):
    test = curve([factor * p.bpp for p in ANCHOR.points], [p.value for p in ANCHOR.points])

    assert bd_rate(ANCHOR, test, method=method) == pytest.approx(100 * (factor - 1), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_codec_that_is_better_by_a_constant_gains_exactly_that(method):
    test = curve([p.bpp for p in ANCHOR.points], [p.value + 0.7 for p in ANCHOR.points])

    assert bd_quality(ANCHOR, test, method=method) == pytest.approx(0.7)
    assert bd_rate(ANCHOR, test, method=method) == pytest.approx(100 * (2 ** (-0.7 / 3) - 1), abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_swapping_anchor_and_test_inverts_the_rate_ratio_and_negates_the_gain(seed, method):
    rng = np.random.default_rng(seed)
    first, second = curve(*random_curve(rng, 5)), curve(*random_curve(rng, 5))
    low, high = (f(first.points[i].value, second.points[i].value) for f, i in ((max, 0), (min, -1)))
    assume(high - low > 0.1)

    there, back = bd_rate(first, second, method=method), bd_rate(second, first, method=method)

    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1.0)
    assert bd_quality(first, second, method=method) == pytest.approx(-bd_quality(second, first, method=method))


def test_the_order_of_the_points_does_not_matter():
    shuffled = RdCurve("codec", "psnr", (ANCHOR.points[2], ANCHOR.points[0], ANCHOR.points[3], ANCHOR.points[1]))

    assert bd_rate(ANCHOR, shuffled) == pytest.approx(0.0, abs=1e-12)


def test_overlap_is_what_both_curves_cover():
    test = curve([0.15, 0.3, 0.6, 1.2], [30.0, 33.0, 36.0, 39.0])

    assert quality_overlap(ANCHOR, test) == (30.0, 37.0)
    assert rate_overlap(ANCHOR, test) == (0.15, 0.8)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (curve([0.1, 0.2, 0.4], [28, 31, 34]), "3 points, Bjøntegaard deltas need 4"),
        (curve([0.1, 0.2, 0.4, 0.8], [28, 31, 30, 34]), "does not rise strictly"),
        (curve([0.1, 0.2, 0.2, 0.8], [28, 31, 32, 34]), "does not rise strictly"),
        (curve([0.1, 0.2, 0.4, 0.8], [28, 31, 31, 34]), "does not rise strictly"),
        (curve([0.1, 0.2, 0.4, 0.8], [38, 41, 44, 47]), "no common interval of quality"),
        (curve([0.1, 0.2, 0.4, 0.8], [28, 31, 34, math.inf]), "infinite"),
        (curve([0.1, 0.2, 0.4, 0.8], [28, 31, 34, 37], metric="ms_ssim"), "cannot compare psnr"),
    ],
)
def test_what_cannot_be_compared_is_refused(test, message):
    with pytest.raises(ValueError, match=message):
        bd_rate(ANCHOR, test)


def test_disjoint_rates_are_refused_for_the_quality_delta():
    with pytest.raises(ValueError, match="no common interval of rate"):
        bd_quality(ANCHOR, curve([1, 2, 4, 8], [28, 31, 34, 37]))


@pytest.mark.parametrize(("bpp", "value"), [(0.0, 30.0), (-1.0, 30.0), (math.inf, 30.0), (0.1, math.nan)])
def test_impossible_points_are_refused(bpp, value):
    with pytest.raises(ValueError, match=r"rate|not a number"):
        RdPoint(bpp, value)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="pchip, akima, cubic"):
        bd_rate(ANCHOR, ANCHOR, method="linear")


def test_mean_curve_averages_rates_and_values_point_by_point():
    other = curve([0.3, 0.4, 0.6, 1.0], [30.0, 33.0, 36.0, 39.0])

    points = mean_curve([ANCHOR, other]).points

    assert [p.bpp for p in points] == pytest.approx([0.2, 0.3, 0.5, 0.9])
    assert [p.value for p in points] == pytest.approx([29, 32, 35, 38])
    with pytest.raises(ValueError, match="agree"):
        mean_curve([ANCHOR, curve([0.1], [30])])


def picture_curves(rng, count, saving):
    """Curves of ``count`` pictures, and of a codec that saves about ``saving`` of the rate on each."""
    anchors, tests = [], []
    for _ in range(count):
        rates, values = random_curve(rng, 5)
        anchors.append(curve(rates, values, label="a"))
        tests.append(curve(rates * (1 - saving * rng.uniform(0.5, 1.5)), values, label="b"))
    return anchors, tests


def test_bootstrap_interval_holds_the_value_shrinks_with_pictures_and_repeats_with_its_seed():
    widths = []
    for count in (6, 60):
        anchors, tests = picture_curves(np.random.default_rng(3), count, 0.2)
        results = [bootstrap_bd(anchors, tests, rng=np.random.default_rng(seed), resamples=200) for seed in (1, 1, 2)]
        assert results[0] == results[1] != results[2]
        low, high = results[0].interval
        assert low < results[0].value < high < 0
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_bootstrap_of_equal_savings_has_no_width():
    anchors, _ = picture_curves(np.random.default_rng(3), 5, 0.0)
    tests = [curve([0.8 * p.bpp for p in a.points], [p.value for p in a.points], label="b") for a in anchors]

    result = bootstrap_bd(anchors, tests, rng=np.random.default_rng(0), resamples=50)

    assert result.interval == pytest.approx((-20.0, -20.0))
    assert (result.resamples, result.refused) == (50, 0)


def test_many_deltas_at_once_are_those_of_one_by_one():
    rng = np.random.default_rng(11)
    pairs = [[random_curve(rng, points) for points in (4, 6)] for _ in range(200)]
    pairs[7][0] = (pairs[7][0][0], pairs[7][0][1][::-1])  # not monotone
    shuffled = [[np.stack(c, axis=1)[rng.permutation(len(c[0]))] for c in pair] for pair in pairs]
    anchors, tests = (np.array([pair[side] for pair in shuffled]) for side in (0, 1))

    for quantity, delta in (("rate", bd_rate), ("quality", bd_quality)):
        expected = []
        for first, second in pairs:
            with contextlib.suppress(ValueError):
                expected.append(delta(curve(*first), curve(*second)))
        assert 150 < len(expected) < 200
        np.testing.assert_allclose(pchip_deltas(anchors, tests, quantity), expected, rtol=1e-9, atol=1e-9)


def test_bootstrap_refuses_unpaired_pictures():
    with pytest.raises(ValueError, match="2 anchor pictures but 1 test pictures"):
        bootstrap_bd([ANCHOR, ANCHOR], [ANCHOR], rng=np.random.default_rng(0))
