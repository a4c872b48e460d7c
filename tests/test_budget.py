"""The two solvers against trying everything, and on sets too large for that."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.budget import Option, choose_options, fill_budget

options_of_a_picture = st.lists(
    st.builds(Option, st.integers(1, 60), st.integers(0, 40).map(lambda value: value / 4)), min_size=1, max_size=4
)


@given(weights=st.lists(st.integers(1, 300), max_size=10), budget=st.integers(0, 1500))
def test_subset_sum_is_as_good_as_trying_all_subsets(weights, budget):
    chosen = fill_budget(weights, budget)

    sums = {sum(w for w, take in zip(weights, takes, strict=True) if take) for takes in masks(len(weights))}
    assert sum(weights[i] for i in chosen) == max(total for total in sums if total <= budget)


def masks(count):
    return itertools.product([False, True], repeat=count)


def test_large_sets_fill_the_budget_to_the_byte():
    weights = np.random.default_rng(1).integers(100, 5000, 3000).tolist()
    budget = 4_000_001

    started = time.process_time()
    chosen = fill_budget(weights, budget)

    assert sum(weights[i] for i in chosen) == budget
    assert time.process_time() - started < 5


@given(options=st.lists(options_of_a_picture, min_size=1, max_size=5), budget=st.integers(0, 200))
def test_choice_is_as_good_as_trying_everything(options, budget):
    picks = choose_options(options, budget)

    fitting = [
        sum(option.value for option in combination)
        for combination in itertools.product(*options)
        if sum(option.size for option in combination) <= budget
    ]
    if not fitting:
        assert picks is None
        return
    chosen = [row[i] for row, i in zip(options, picks, strict=True)]
    assert sum(option.size for option in chosen) <= budget
    assert sum(option.value for option in chosen) == pytest.approx(max(fitting))


def rate_distortion_options(count, seed):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        scale, slope = generator.lognormal(9, 0.7), generator.uniform(0.09, 0.15)
        base = generator.uniform(28, 36)
        rows.append(
            [Option(int(scale * np.exp(slope * k)), base + 0.45 * k + generator.normal(0, 0.03)) for k in range(-4, 5)]
        )
    return rows


@pytest.mark.parametrize(("count", "allowance"), [(24, 0.25), (400, 0.02)])
def test_sets_of_pictures_come_within_a_hair_of_the_lagrangian_bound(count, allowance):
    options = rate_distortion_options(count, seed=count)
    budget = sum(row[4].size for row in options)

    picks = choose_options(options, budget)

    chosen = [row[i] for row, i in zip(options, picks, strict=True)]
    value, size = sum(o.value for o in chosen), sum(o.size for o in chosen)
    values = np.array([[o.value for o in row] for row in options])
    sizes = np.array([[o.size for o in row] for row in options])
    bound = min((values - m * sizes).max(axis=1).sum() + m * budget for m in np.geomspace(1e-6, 1e-2, 4000))
    assert size <= budget
    assert bound - value < allowance  # dB, summed over the set; one step of one picture is 0.45 dB
    assert value > sum(row[4].value for row in options) + 0.02 * count


def test_nothing_to_choose_from_is_an_empty_choice():
    assert choose_options([], 10) == []
