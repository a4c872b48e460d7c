from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_msssim import ms_ssim as reference_ms_ssim
from pytorch_msssim import ssim as reference_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from enhancer.metrics import (
    MS_SSIM_MIN_SIDE,
    channel_psnr,
    luma,
    ms_ssim,
    mse,
    psnr,
    psnr_from_mse,
    similarity_db,
    ssim,
    y_ms_ssim,
    y_psnr,
)


def noisy_pair(height=170, width=181, *, dtype=np.uint8, channels=3, seed=1):
    """A smooth picture and a noisy version of it."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    ramp = np.linspace(0.2, 0.8, width) * np.linspace(0.5, 1.0, height)[:, None]
    clean = np.repeat(ramp[..., None], channels, axis=2) * np.linspace(1.0, 0.7, channels)
    noise = rng.normal(0.0, 0.03, clean.shape)
    pair = [np.round(np.clip(x, 0, 1) * top).astype(dtype) for x in (clean, clean + noise)]
    return tuple(x[..., 0] if channels == 1 else x for x in pair), float(top)


def planes(image):
    stacked = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(stacked, dtype=np.float64))[None]


PICTURES = pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 3)])


def test_psnr_of_one_wrong_sample_by_hand():
    reference = np.zeros((2, 2, 3), np.uint8)
    test = reference.copy()
    test[0, 1, 2] = 6  # 36 over 12 samples: an error of 3

    assert mse(reference, test, data_range=255) == pytest.approx(3.0)
    assert psnr(reference, test, data_range=255) == pytest.approx(10 * math.log10(255**2 / 3))
    red, green, blue = channel_psnr(reference, test, data_range=255)
    assert red == green == math.inf
    assert blue == pytest.approx(10 * math.log10(255**2 / 9))


def test_extreme_differences_do_not_overflow():
    black = np.zeros((300, 300), np.uint16)
    white = np.full((300, 300), 65535, np.uint16)

    assert psnr(black, white, data_range=65535) == pytest.approx(0.0, abs=1e-12)
    assert psnr(white, black, data_range=65535) == pytest.approx(0.0, abs=1e-12)


def test_16_bit_psnr_equals_8_bit_psnr_of_the_same_picture():
    (reference, test), _ = noisy_pair()
    wide = [x.astype(np.uint16) * 257 for x in (reference, test)]

    assert psnr(*wide, data_range=65535) == pytest.approx(psnr(reference, test, data_range=255))
    assert mse(*wide, data_range=65535) == pytest.approx(mse(reference, test, data_range=255))


@PICTURES
def test_psnr_equals_scikit_image(dtype, channels):
    (reference, test), top = noisy_pair(dtype=dtype, channels=channels)

    expected = peak_signal_noise_ratio(reference, test, data_range=top)

    assert psnr(reference, test, data_range=top) == pytest.approx(expected, rel=1e-12)


@given(st.floats(1e-6, 65025))
def test_psnr_falls_as_the_error_grows(value):
    assert psnr_from_mse(value) > psnr_from_mse(value * 1.01)


def test_luma_of_the_primaries_is_the_standards_weight():
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)

    assert luma(primaries, matrix="bt601")[0] / 255 == pytest.approx([0.299, 0.587, 0.114, 1.0])
    assert luma(primaries, matrix="bt709")[0] / 255 == pytest.approx([0.2126, 0.7152, 0.0722, 1.0])


@pytest.mark.parametrize(("matrix", "weight"), [("bt601", 0.114), ("bt709", 0.0722)])
def test_y_psnr_of_a_blue_error_by_hand(matrix, weight):
    reference = np.full((3, 5, 3), 100, np.uint8)
    test = reference.copy()
    test[..., 2] += 20

    expected = 20 * math.log10(255 / (20 * weight))

    assert y_psnr(reference, test, data_range=255, matrix=matrix) == pytest.approx(expected)


@PICTURES
def test_ms_ssim_equals_pytorch_msssim(dtype, channels):
    (reference, test), top = noisy_pair(dtype=dtype, channels=channels)

    expected = float(reference_ms_ssim(planes(reference), planes(test), data_range=top))

    assert ms_ssim(reference, test, data_range=top) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected < 0.99


def test_luma_ms_ssim_is_ms_ssim_of_the_luma_plane():
    (reference, test), _ = noisy_pair()

    expected = float(reference_ms_ssim(*(planes(luma(x, matrix="bt601")) for x in (reference, test)), data_range=255.0))

    assert y_ms_ssim(reference, test, data_range=255) == pytest.approx(expected, abs=1e-12)


@PICTURES
def test_ssim_equals_two_other_implementations(dtype, channels):
    (reference, test), top = noisy_pair(80, 70, dtype=dtype, channels=channels)

    value = ssim(reference, test, data_range=top)

    axis = None if channels == 1 else 2
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": axis}
    assert value == pytest.approx(structural_similarity(reference, test, data_range=top, **settings))
    # pytorch-msssim rounds its window to single precision.
    assert value == pytest.approx(float(reference_ssim(planes(reference), planes(test), data_range=top)), abs=1e-5)


def test_identical_pictures_are_perfect_without_an_epsilon():
    (picture, _), _ = noisy_pair()

    assert psnr(picture, picture, data_range=255) == math.inf
    assert channel_psnr(picture, picture, data_range=255) == (math.inf,) * 3
    assert y_psnr(picture, picture, data_range=255, matrix="bt709") == math.inf
    for value in (ms_ssim(picture, picture, data_range=255), y_ms_ssim(picture, picture, data_range=255)):
        assert value == 1.0
        assert similarity_db(value) == math.inf
    assert ssim(picture, picture, data_range=255) == 1.0


def test_similarity_in_db_by_hand():
    assert similarity_db(0.0) == 0.0
    assert similarity_db(0.99) == pytest.approx(20.0)


def test_ms_ssim_refuses_pictures_too_small_for_five_scales():
    (reference, test), _ = noisy_pair(MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE)
    assert ms_ssim(reference, test, data_range=255) < 1

    with pytest.raises(ValueError, match="MS-SSIM needs sides of at least 161 pixels, got 161 x 160"):
        ms_ssim(reference[:160], test[:160], data_range=255)
    with pytest.raises(ValueError, match="SSIM needs sides of at least 11 pixels, got 10 x 161"):
        ssim(reference[:, :10], test[:, :10], data_range=255)


@pytest.mark.parametrize("metric", [mse, psnr, channel_psnr, ssim, ms_ssim, y_ms_ssim])
@pytest.mark.parametrize(
    ("reference", "test", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), "differ in shape"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint16), "differ in type"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), "must be uint8 or uint16, got float64"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), r"\(H, W\) or \(H, W, 3\)"),
        (np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8), r"\(H, W\) or \(H, W, 3\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, reference, test, message):
    with pytest.raises(ValueError, match=message):
        metric(reference, test, data_range=255)


def test_data_range_must_be_given_and_positive():
    (reference, test), _ = noisy_pair(12, 12)
    with pytest.raises(TypeError, match="data_range"):
        psnr(reference, test)
    with pytest.raises(ValueError, match="data_range must be positive"):
        psnr(reference, test, data_range=0)


def test_psnr_does_not_import_torch():
    code = "import sys, enhancer.metrics, enhancer.bd_rate; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
