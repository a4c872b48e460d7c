from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.bpg_color import SampleFormat, image_to_planes, planes_to_image, premultiply, unpremultiply

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
MATRICES = ["bt601", "bt709", "bt2020", "ycgco", "rgb"]


@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_are_the_rounded_values_of_the_definition(rng, space, limited, depth, dtype):
    full = np.iinfo(dtype).max
    image = rng.integers(0, full + 1, (30, 40, 3)).astype(dtype)
    red, blue = WEIGHTS[space]
    r, g, b = np.moveaxis(image / full, 2, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    scale, top = 2 ** (depth - 8), 2**depth - 1
    luma = y * 219 * scale + 16 * scale if limited else y * top
    chroma = [c * (224 * scale if limited else top) + 128 * scale for c in (cb, cr)]

    planes = image_to_planes(image, SampleFormat("444", False, depth, space, limited))

    for plane, expected in zip(planes, [luma, *chroma], strict=True):
        assert np.abs(plane - np.clip(expected, 0, top)).max() < 0.5001


@pytest.mark.parametrize("space", MATRICES)
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("depth", "tolerance"), [(8, 2.1), (10, 0.6), (12, 0.2)])
def test_full_resolution_planes_convert_back(rng, space, limited, depth, tolerance):
    image = rng.integers(0, 65536, (70, 33, 3)).astype(np.uint16)
    samples = SampleFormat("444", False, depth, space, limited)

    back = planes_to_image(image_to_planes(image, samples), samples, 16)

    # YCgCo has an orange axis that is twice as long as the others, so it rounds more coarsely.
    assert np.abs(back.astype(float) - image).max() / 257 < tolerance * (1.2 if limited else 1)


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_8_bit_gray_and_rgb_survive_exactly(rng, depth):
    image = rng.integers(0, 256, (65, 31, 3)).astype(np.uint8)
    rgb = SampleFormat("444", False, depth, "rgb", False)
    gray = SampleFormat("400", False, depth, "bt601", False)

    np.testing.assert_array_equal(planes_to_image(image_to_planes(image, rgb), rgb, 8), image)
    np.testing.assert_array_equal(planes_to_image(image_to_planes(image[..., 0], gray), gray, 8), image[..., 0])


@given(
    height=st.integers(1, 140),
    width=st.integers(1, 70),
    chroma=st.sampled_from(["420", "422", "444"]),
    left=st.booleans(),
    depth=st.sampled_from([8, 10, 12]),
    color=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_flat_pictures_of_any_size_stay_flat(height, width, chroma, left, depth, color):
    image = np.broadcast_to(np.array(color, np.uint8), (height, width, 3))
    samples = SampleFormat(chroma, left and chroma != "444", depth, "bt601", False)

    planes = image_to_planes(image, samples)
    back = planes_to_image(planes, samples, 8)

    down, across = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[chroma]
    assert [plane.shape for plane in planes[1:]] == [(-(-height // down), -(-width // across))] * 2
    assert all(len(np.unique(plane)) == 1 for plane in planes)
    assert len(np.unique(back.reshape(-1, 3), axis=0)) == 1
    assert np.abs(back.astype(int) - image).max() <= 2


@pytest.mark.parametrize("chroma", ["420", "422"])
@pytest.mark.parametrize("left", [False, True])
def test_subsampled_chroma_lies_where_its_siting_says(chroma, left):
    # Blue rises linearly to the right, so the chroma sample tells the position at which it was taken.
    image = np.zeros((64, 128, 3), np.uint16)
    image[..., 2] = 500 * np.arange(128)
    full = image_to_planes(image, SampleFormat("444", False, 12, "bt601", False))[1]
    half = image_to_planes(image, SampleFormat(chroma, left, 12, "bt601", False))[1]
    position = np.interp(half[20, 8:50], full[20], np.arange(128))

    expected = 2 * np.arange(8, 50) + (0 if left else 0.5)
    assert np.abs(position - expected).max() < 0.1


@pytest.mark.parametrize("chroma", ["420", "422"])
@pytest.mark.parametrize("left", [False, True])
def test_smooth_colour_survives_subsampling(chroma, left):
    y, x = np.mgrid[:97, :131]
    image = np.dstack([120 + 80 * np.sin(x / 9), 120 + 80 * np.cos(y / 8), 120 + 80 * np.sin((x + y) / 10)])
    image = np.rint(image).astype(np.uint8)
    samples = SampleFormat(chroma, left, 8, "bt601", False)

    back = planes_to_image(image_to_planes(image, samples), samples, 8)

    assert np.abs(back.astype(int) - image)[8:-8, 8:-8].max() <= 4


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_fine_chroma_is_the_interpolation_without_its_rounding(rng, chroma, left, depth):
    samples = SampleFormat(chroma, left, depth, "bt601", False)
    # Middle values only, so that nothing is clipped.
    planes = image_to_planes(rng.integers(60, 196, (71, 45, 3)).astype(np.uint8), samples)
    # The same samples with four more bits, of which libbpg's arithmetic loses only the last.
    deep = [plane.astype(np.uint16) << 4 for plane in planes]
    expected = planes_to_image(deep, SampleFormat(chroma, left, depth + 4, "bt601", False), 16)
    step = 257 >> (depth - 8)

    rounded, fine = (planes_to_image(planes, samples, 16, fine_chroma=fine).astype(float) for fine in (False, True))

    if chroma == "444":
        np.testing.assert_array_equal(fine, rounded)
    else:
        assert 0.2 * step < np.sqrt(np.mean((fine - rounded) ** 2)) < 0.5 * step
        assert np.abs(fine - rounded).max() < 1.1 * step
    # The largest value of n + 4 bits is not 16 times that of n, hence the factor.
    factor = ((1 << depth + 4) - 1) / (16 * ((1 << depth) - 1))
    assert np.abs(expected * factor - fine).max() < max(0.1 * step, 2.5)


def test_strips_do_not_show(rng):
    image = rng.integers(0, 256, (200, 20, 3)).astype(np.uint8)
    samples = SampleFormat("420", False, 8, "bt601", False)
    planes = image_to_planes(image, samples)

    whole = planes_to_image(planes, samples, 8)
    # Rows far from the cut do not depend on what lies beyond it, wherever strips begin.
    part = planes_to_image([planes[0][20:], planes[1][10:], planes[2][10:]], samples, 8)

    np.testing.assert_array_equal(whole[30:], part[10:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unpremultiply_inverts_premultiply_up_to_rounding(rng, dtype):
    full = int(np.iinfo(dtype).max)
    rgb = rng.integers(0, full + 1, (80, 40, 3)).astype(dtype)
    alpha = rng.integers(full // 2, full + 1, (80, 40)).astype(dtype)

    back = unpremultiply(premultiply(rgb, alpha), alpha)

    assert np.abs(back.astype(int) - rgb).max() <= 1
