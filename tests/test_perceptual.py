from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from codec_wrappers.errors import CodecUnavailableError
from enhancer import perceptual
from enhancer.evaluation.measure import EXTRA, measure, measure_vmaf
from enhancer.metrics import luma
from enhancer.perceptual import ssimulacra2, vif

sewar = pytest.importorskip("sewar.full_ref", reason="the second implementation of VIF")


def degraded(photograph):
    """A part of a photograph and three damaged versions of it, made by integer arithmetic alone."""
    image = np.ascontiguousarray(photograph[:256, :320])
    shifted = [np.roll(image, shift, (0, 1)).astype(int) for shift in ((0, 0), (1, 0), (0, 1), (1, 1))]
    return image, {
        "levels": np.minimum(image // 24 * 24 + 12, 255).astype(np.uint8),
        "blur": ((sum(shifted) + 2) // 4).astype(np.uint8),
        "blocks": np.repeat(np.repeat(image[::8, ::8], 8, axis=0), 8, axis=1),
    }


@pytest.mark.parametrize("height", [256, 41])
def test_vif_equals_another_implementation(photograph, height):
    image, tests = degraded(photograph)
    for test in tests.values():
        planes = [luma(x[:height], matrix="bt601") for x in (image, test)]

        expected = sewar._vifp_single(*planes, 2)

        assert vif(image[:height], test[:height], data_range=255) == pytest.approx(expected, abs=1e-9)
        assert 0.05 < expected < 0.95


def test_vif_of_16_bits_is_that_of_8(photograph):
    image, tests = degraded(photograph)
    wide = [x.astype(np.uint16) * 257 for x in (image, tests["blur"])]

    assert vif(*wide, data_range=65535) == pytest.approx(vif(image, tests["blur"], data_range=255), abs=1e-9)


# By vapoursynth-vszip 23.1.0, whose low-pass is a Gaussian of nine taps, mirrored at the border.
VSZIP = {"levels": 53.1206, "blur": 39.7451, "blocks": -86.3947}


def test_ssimulacra2_equals_another_implementation_given_its_low_pass(photograph, monkeypatch):
    taps = np.exp(-(np.arange(-4, 5) ** 2) / 4.5)

    def low_pass(image):
        rows = correlate1d(image, taps / taps.sum(), axis=0, mode="mirror")
        return correlate1d(rows, taps / taps.sum(), axis=1, mode="mirror")

    monkeypatch.setattr(perceptual, "_blurred", low_pass)
    image, tests = degraded(photograph)

    for name, test in tests.items():
        assert ssimulacra2(image, test, data_range=255) == pytest.approx(VSZIP[name], abs=0.05)


def recursive_gaussian(line, sigma=1.5):
    """The filter as libjxl runs it: a sum of three recursions of second order from zero, zeros outside."""
    radius = round(3.2795 * sigma + 0.2546)
    response = perceptual._truncated_cosines(sigma)
    omega = np.array([1, 3, 5]) * math.pi / (2 * radius)
    beta = np.linalg.lstsq(np.cos(np.outer(np.arange(-radius, radius + 1), omega)), response, rcond=None)[0]
    gain, feedback = -beta * np.cos(omega * (radius + 1)), 2 * np.cos(omega)
    before, last, out = np.zeros(3), np.zeros(3), []
    padded = np.pad(line, 2 * radius)
    for n in range(1 - radius, len(line)):
        total = padded[2 * radius + n - radius - 1] + padded[2 * radius + n + radius - 1]
        before, last = last, gain * total + feedback * last - before
        out.append(last.sum())
    return np.array(out[radius - 1 :])


def test_the_low_pass_is_libjxl_s_recursion(rng):
    image = rng.random((23, 9, 1))

    once = np.apply_along_axis(recursive_gaussian, 0, image)

    np.testing.assert_allclose(perceptual._blurred(image), np.apply_along_axis(recursive_gaussian, 1, once), atol=1e-12)
    response = perceptual._truncated_cosines(1.5)
    taps = np.arange(-5, 6)
    assert (response.sum(), taps**2 @ response) == pytest.approx((1.0, 1.5**2))


# By vmaf-torch 1.1.0, in floating point and without motion; libvmaf computes in integers.
VMAF_TORCH = {"levels": 87.705, "blur": 64.806, "blocks": 6.037, "same": 97.428}


def test_vmaf_equals_another_implementation(photograph):
    image, tests = degraded(photograph)
    for name, test in {**tests, "same": image}.items():
        try:
            value = measure_vmaf(image, test)
        except CodecUnavailableError as error:
            pytest.skip(f"no libvmaf here: {error}")
        assert value == pytest.approx(VMAF_TORCH[name], abs=0.15)


def test_identical_pictures_are_perfect(photograph):
    image, _ = degraded(photograph)

    assert vif(image, image, data_range=255) == pytest.approx(1.0, abs=1e-9)
    assert ssimulacra2(image, image, data_range=255) == 100.0


def test_gray_is_measured_as_equal_channels(photograph):
    image, tests = degraded(photograph)
    gray, other = image[..., 1], tests["blur"][..., 1]

    expected = ssimulacra2(np.dstack([gray] * 3), np.dstack([other] * 3), data_range=255)

    assert ssimulacra2(gray, other, data_range=255) == pytest.approx(expected, abs=1e-9)


def test_what_a_picture_does_not_allow_is_left_out_and_the_functions_say_why(photograph):
    small, flat = photograph[:7, :60], np.full((64, 64, 3), 9, np.uint8)

    values = measure(small, small // 2, extra=("vif", "ssimulacra2"))

    assert (values["vif"], values["ssimulacra2"]) == (None, None)
    assert measure(flat, flat // 2, extra=("vif",))["vif"] is None
    assert set(measure(flat, flat)).isdisjoint(EXTRA)
    with pytest.raises(ValueError, match="SSIMULACRA2 needs sides of at least 8 pixels, got 60 x 7"):
        ssimulacra2(small, small, data_range=255)
    with pytest.raises(ValueError, match="VIF needs sides of at least 41 pixels"):
        vif(small, small, data_range=255)
    with pytest.raises(ValueError, match="not defined for a flat reference"):
        vif(flat, flat, data_range=255)
    with pytest.raises(ValueError, match="must be one of vif, ssimulacra2, vmaf, got 'lpips'"):
        measure(flat, flat, extra=("lpips",))
