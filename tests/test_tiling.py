from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enhancer.tiling import run_tiled, tile_spans


@settings(deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile_size=st.integers(8, 32),
    fixed_shape=st.booleans(),
    batch_size=st.integers(1, 4),
    data=st.data(),
)
def test_tiling_is_exact_for_a_local_filter(height, width, tile_size, fixed_shape, batch_size, data):
    radius = data.draw(st.integers(0, 3))
    overlap = data.draw(st.integers(0, tile_size // 2))
    halo = radius + data.draw(st.integers(0, 2))
    blur = torch.nn.AvgPool2d(2 * radius + 1, stride=1, padding=radius)
    x = torch.rand(2, 3, height, width, dtype=torch.float64)

    tiled = run_tiled(
        blur, x, tile_size=tile_size, overlap=overlap, halo=halo, fixed_shape=fixed_shape, batch_size=batch_size
    )

    torch.testing.assert_close(tiled, blur(x))


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    tile=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    fixed_shape=st.booleans(),
)
def test_tiling_is_exact_for_a_network_bound_to_a_grid(rows, columns, tile, fixed_shape):
    def cell_means(x):
        """Mean over cells of 8 x 8, then a blur of radius 1: needs aligned windows and a halo of one cell."""
        means = torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, -2).repeat_interleave(8, -1)
        return torch.nn.functional.avg_pool2d(means, 3, stride=1, padding=1)

    x = torch.rand(1, 1, 8 * rows, 8 * columns, dtype=torch.float64)
    size = (8 * tile[0], 8 * tile[1])

    tiled = run_tiled(cell_means, x, tile_size=size, halo=8, multiple=8, fixed_shape=fixed_shape)

    torch.testing.assert_close(tiled, cell_means(x), rtol=0, atol=0)


@given(length=st.integers(1, 200), tile_size=st.integers(1, 40), halo=st.integers(0, 20), fixed_shape=st.booleans())
def test_spans_cover_an_axis_once_and_stay_inside(length, tile_size, halo, fixed_shape):
    spans = tile_spans(length, tile_size=tile_size, overlap=0, halo=halo, fixed_shape=fixed_shape)

    assert [pixel for span in spans for pixel in range(span.start, span.stop)] == list(range(length))
    for span in spans:
        assert 0 <= span.first <= max(span.start - halo, 0)
        assert min(span.stop + halo, length) <= span.last <= length
    if fixed_shape:
        assert {span.last - span.first for span in spans} == {min(tile_size + 2 * halo, length)}


def test_the_network_never_sees_beyond_the_picture():
    seen = []

    def network(x):
        seen.append(x)
        return x

    x = torch.arange(1.0, 101.0).reshape(1, 1, 10, 10)
    run_tiled(network, x, tile_size=4, halo=3)

    assert all(window.min() >= 1 for window in seen)
    assert [window.shape[-1] for window in seen[:3]] == [7, 9, 5]


def test_output_takes_the_dtype_of_the_network_s_result():
    x = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)

    tiled = run_tiled(lambda window: 255 - window, x, tile_size=8, halo=2)

    assert tiled.dtype == torch.uint8
    assert torch.equal(tiled, 255 - x)
    with pytest.raises(ValueError, match="floating-point result"):
        run_tiled(lambda window: 255 - window, x, tile_size=8, overlap=2, halo=2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_result_lies_in_memory_as_the_picture_does(layout):
    x = torch.rand(1, 3, 20, 24).to(memory_format=layout)

    tiled = run_tiled(lambda window: 1 - window.contiguous(), x, tile_size=8, halo=2)

    assert tiled.stride() == x.stride()
    assert torch.equal(tiled, 1 - x)


def test_a_halo_that_is_too_small_is_noticed_by_this_test_suite():
    blur = torch.nn.AvgPool2d(7, stride=1, padding=3)
    x = torch.rand(1, 3, 40, 40)

    assert not torch.allclose(run_tiled(blur, x, tile_size=16, halo=2), blur(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_size": 0}, "tile_size"),
        ({"halo": -1}, "halo"),
        ({"overlap": 16}, r"overlap must be in 0\.\.15"),
        ({"multiple": 3}, "height must be a multiple of 3, got 32"),
        ({"tile_size": 12, "multiple": 8}, "tile_size must be a multiple of 8, got 12"),
        ({"halo": 4, "multiple": 8}, "halo must be a multiple of 8, got 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_tiled(lambda x: x, torch.rand(1, 3, 32, 32), **{"tile_size": 16, "halo": 0, **arguments})
