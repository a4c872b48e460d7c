"""RGB <-> YCbCr and half-resolution chroma: known values, exact inverses, optimality."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers import color
from codec_wrappers.base import Image
from codec_wrappers.color import (
    BT601,
    BT709,
    CENTRE,
    LEFT,
    ChromaFilter,
    Halver,
    Siting,
    YCbCrFormat,
    doubling_matrix,
    from_unit,
    gray_to_luma,
    luma_to_gray,
    quantise_chroma,
    quantise_luma,
    rgb_to_ycbcr,
    rgb_to_yuv420,
    yuv_to_rgb,
)

FULL_601 = YCbCrFormat(*BT601, full_range=True, bit_depth=10)
FORMATS = [YCbCrFormat(*m, full_range=f, bit_depth=d) for m in (BT601, BT709) for f in (True, False) for d in (10, 12)]
FILTERS: list[ChromaFilter] = ["ls-lanczos3", "ls-bicubic", "lanczos3", "bicubic"]


def psnr(a: Image, b: Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("form", "rgb", "codes"),
    [
        (YCbCrFormat(*BT601, full_range=True, bit_depth=8), (255, 255, 255), (255, 128, 128)),
        (YCbCrFormat(*BT601, full_range=True, bit_depth=8), (255, 0, 0), (76, 85, 255)),
        (YCbCrFormat(*BT601, full_range=False, bit_depth=8), (255, 0, 0), (81, 90, 240)),
        (YCbCrFormat(*BT709, full_range=False, bit_depth=8), (255, 255, 255), (235, 128, 128)),
        (YCbCrFormat(*BT709, full_range=False, bit_depth=10), (0, 0, 0), (64, 512, 512)),
        (YCbCrFormat(*BT709, full_range=False, bit_depth=10), (0, 0, 255), (127, 960, 471)),
    ],
)
def test_primaries_get_the_codes_of_the_standard(form, rgb, codes):
    y, cb, cr = rgb_to_ycbcr(np.array(rgb, np.float64) / 255, form)

    assert (quantise_luma(y, form), quantise_chroma(cb, form), quantise_chroma(cr, form)) == codes


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_444_at_ten_bits_and_more_gives_back_every_8_bit_colour(form, rng):
    image = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    image[:2, :4] = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255]), -1).reshape(2, 4, 3)
    y, cb, cr = rgb_to_ycbcr(image.astype(np.float32) / 255, form)
    planes = quantise_luma(y, form), quantise_chroma(cb, form), quantise_chroma(cr, form)

    if form.full_range or form.bit_depth > 10:
        np.testing.assert_array_equal(yuv_to_rgb(planes, form), image)
    else:  # 876 luma codes for 256 values leave no room for the error of chroma
        assert np.abs(yuv_to_rgb(planes, form).astype(int) - image).max() <= 1


def test_integers_are_rounded_and_clamped_not_truncated():
    values = np.array([-0.1, 0.4, 0.6, 254.4, 254.6, 300]) / 255

    np.testing.assert_array_equal(from_unit(values, 8), [0, 0, 1, 254, 255, 255])


@pytest.mark.parametrize("depth", [8, 16])
def test_gray_survives_a_luma_plane_of_the_same_or_greater_depth(depth, rng):
    dtype = np.uint8 if depth == 8 else np.uint16
    image = rng.integers(0, 1 << depth, (70, 9), dtype=dtype)
    form = YCbCrFormat(*BT601, full_range=True, bit_depth=max(depth, 10))

    np.testing.assert_array_equal(luma_to_gray(gray_to_luma(image, form), form, output_depth=depth), image)


def test_least_squares_chroma_beats_low_pass_filtering_on_a_photograph(photograph):
    image = photograph[:, :450]

    def quality(chroma_filter: ChromaFilter, kernel: color.Kernel) -> float:
        return psnr(
            yuv_to_rgb(rgb_to_yuv420(image, FULL_601, chroma_filter=chroma_filter), FULL_601, kernel=kernel), image
        )

    assert quality("ls-lanczos3", "lanczos3") > quality("lanczos3", "lanczos3") + 0.3
    assert quality("ls-bicubic", "bicubic") > quality("bicubic", "bicubic") + 0.3


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kernel", ["lanczos3", "bicubic"])
def test_least_squares_halving_is_the_pseudo_inverse_of_doubling(kernel, position, rng):
    plane = rng.standard_normal((34, 5))
    expected = np.linalg.pinv(doubling_matrix(17, kernel, position).toarray()) @ plane

    np.testing.assert_allclose(Halver(34, f"ls-{kernel}", position)(plane), expected, atol=1e-6)


@given(length=st.integers(1, 40), position=st.sampled_from([0.0, 0.5]), kernel=st.sampled_from(["lanczos3", "bicubic"]))
def test_doubling_then_least_squares_halving_changes_nothing(length, position, kernel):
    plane = np.random.default_rng(length).standard_normal((length, 3))
    doubled = doubling_matrix(length, kernel, position) @ plane

    np.testing.assert_allclose(Halver(2 * length, f"ls-{kernel}", position)(doubled), plane, atol=1e-5)


@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    rgb=st.tuples(*[st.integers(0, 255)] * 3),
    chroma_filter=st.sampled_from(FILTERS),
    siting=st.sampled_from([CENTRE, LEFT]),
)
def test_a_flat_colour_stays_flat_at_any_size(height, width, rgb, chroma_filter, siting):
    image = np.full((2 * height, 2 * width, 3), rgb, np.uint8)
    planes = rgb_to_yuv420(image, FULL_601, chroma_filter=chroma_filter, siting=siting)

    np.testing.assert_array_equal(yuv_to_rgb(planes, FULL_601, siting=siting), image)


@pytest.mark.parametrize("siting", [CENTRE, LEFT, Siting(0, 0)], ids=str)
def test_a_colour_ramp_keeps_its_place_whatever_the_siting(siting):
    ramp = np.linspace(40, 200, 64)
    image = np.stack([ramp, np.full(64, 120), 240 - ramp], -1).round().astype(np.uint8)
    image = np.broadcast_to(image, (32, 64, 3)).copy()

    planes = rgb_to_yuv420(image, FULL_601, chroma_filter="lanczos3", siting=siting)
    result = yuv_to_rgb(planes, FULL_601, siting=siting)

    assert np.abs(result[:, 8:-8].astype(int) - image[:, 8:-8]).max() <= 1
    wrong = yuv_to_rgb(planes, FULL_601, siting=Siting(1 - siting.horizontal, 0.5))
    assert siting == CENTRE or np.abs(wrong[:, 8:-8].astype(int) - image[:, 8:-8]).max() >= 2


def test_strips_do_not_show(photograph, monkeypatch):
    image = photograph[:, :450]
    planes = rgb_to_yuv420(image, FULL_601)
    restored = yuv_to_rgb(planes, FULL_601)
    monkeypatch.setattr(color, "STRIP_ROWS", 1000)

    for ours, whole in zip(planes, rgb_to_yuv420(image, FULL_601), strict=True):
        np.testing.assert_array_equal(ours, whole)
    np.testing.assert_array_equal(restored, yuv_to_rgb(planes, FULL_601))


def test_cropping_and_odd_luma_give_the_upper_left_part(picture):
    y, cb, cr = rgb_to_yuv420(picture, FULL_601)
    whole = yuv_to_rgb((y, cb, cr), FULL_601)

    np.testing.assert_array_equal(yuv_to_rgb((y, cb, cr), FULL_601, size=(75, 33)), whole[:75, :33])
    np.testing.assert_array_equal(yuv_to_rgb((y[:95, :127], cb, cr), FULL_601), whole[:95, :127])


def test_422_is_interpolated_across_only():
    y = np.full((4, 8), 512, np.uint16)
    rows = np.array([[300], [500], [700], [400]], np.uint16)
    cb = np.broadcast_to(rows, (4, 4))
    result = yuv_to_rgb((y, cb, np.full((4, 4), 512, np.uint16)), FULL_601, siting=LEFT)

    expected = np.rint(255 * (512 / 1023 + 1.772 * (rows - 512.0) / 1023)).clip(0, 255)
    np.testing.assert_array_equal(result[..., 2], np.broadcast_to(expected, (4, 8)))


def test_odd_sides_are_refused(picture):
    with pytest.raises(ValueError, match="even sides, got 127 x 96"):
        rgb_to_yuv420(picture[:, :127], FULL_601)
