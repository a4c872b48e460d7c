"""Perceptual quality of one picture: VIF and SSIMULACRA2.

As in :mod:`enhancer.metrics`: integer pictures of equal shape and type, ``data_range`` spelt out, one
value for one picture, more is better.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from enhancer.metrics import check_pair, check_side, luma

if TYPE_CHECKING:
    from codec_wrappers import Image

Plane: TypeAlias = npt.NDArray[np.float64]

VIF_MIN_SIDE = 41
"""The fourth scale must keep one pixel after filters that lose 16, 8, 4 and 2 pixels at their scales."""

SSIMULACRA2_MIN_SIDE = 8


def vif(reference: Image, test: Image, *, data_range: float) -> float:
    """Visual information fidelity in the pixel domain, of BT.601 luma; 1 for identical pictures.

    Sheikh and Bovik, "Image information and visual quality", IEEE TIP 2006, in the simplification over
    pixels of four scales that its authors published as ``vifp_mscale`` (visual noise of variance 2).

    Raises:
        ValueError: As :func:`enhancer.metrics.mse`, for sides below :data:`VIF_MIN_SIDE`, and for a flat
            reference, which holds no information.
    """
    check_pair(reference, test, data_range)
    check_side(reference, VIF_MIN_SIDE, "VIF")
    x, y = (luma(image, matrix="bt601") * (255.0 / data_range) for image in (reference, test))
    kept = total = 0.0
    for scale in range(4):
        window = _gaussian(2 ** (4 - scale) + 1)
        if scale:
            x, y = (_inner(plane, window)[::2, ::2] for plane in (x, y))
        scale_kept, scale_total = _information(x, y, window)
        kept, total = kept + scale_kept, total + scale_total
    if total == 0:
        raise ValueError("VIF is not defined for a flat reference")
    return kept / total


def _information(x: Plane, y: Plane, window: Plane, noise: float = 2.0, tiny: float = 1e-10) -> tuple[float, float]:
    """What the test and the reference tell of the scene at one scale, equations 20 and 17, in log10 units."""
    mean_x, mean_y = _inner(x, window), _inner(y, window)
    var_x = np.maximum(_inner(x * x, window) - mean_x * mean_x, 0.0)
    var_y = np.maximum(_inner(y * y, window) - mean_y * mean_y, 0.0)
    covariance = _inner(x * y, window) - mean_x * mean_y
    var_x[var_x < tiny] = 0.0
    gain = np.divide(covariance, var_x + tiny)
    # Where the reference is flat, where the test is, or where it is inverted, the test tells nothing.
    gain[(var_x == 0) | (var_y < tiny) | (gain < 0)] = 0.0
    residual = np.maximum(var_y - gain * covariance, tiny)
    kept = np.log10(1.0 + gain * gain * var_x / (residual + noise)).sum()
    return float(kept), float(np.log10(1.0 + var_x / noise).sum())


def _gaussian(taps: int) -> Plane:
    """Weights of a Gaussian window with a standard deviation of a fifth of its width."""
    positions = np.arange(taps) - taps // 2
    weights: Plane = np.exp(-0.5 * (positions / (taps / 5)) ** 2)
    weights /= weights.sum()
    return weights


def _inner(plane: Plane, window: Plane) -> Plane:
    """``plane`` filtered in both directions, where the whole window lies inside."""
    from scipy.ndimage import correlate1d

    half = len(window) // 2
    filtered: Plane = correlate1d(correlate1d(plane, window, axis=0), window, axis=1)
    return filtered[half : plane.shape[0] - half, half : plane.shape[1] - half]


_WEIGHTS = (
    # X
    (0, 0.0007376606707406586, 0, 0, 0.0007793481682867309, 0),
    (0, 0.0004371155730107379, 0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752),
    (0, 0.0016406437456599754, 0, 1.8422455520539298, 11.441172603757666, 0),
    (0.0007989109436015163, 0.000176816438078653, 0, 1.8787594979546387, 10.94906990605142, 0),
    (0.0007289346991508072, 0.9677937080626833, 0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053),
    (0.0004550992113792063, 0, 0, 0.0013648766163243398, 0, 0),
    # Y
    (0, 0, 0, 7.466890328078848, 0, 17.445833984131262),
    (0.0006235601634041466, 0, 0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264),
    (225.20515300849274, 0, 0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985),
    (176.39317598450694, 0, 0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408),
    (0, 0, 0, 34.77906344483772, 44.835625328877896, 0),
    (0, 0, 0, 0, 0, 0),
    # B
    (0, 0.0008680556573291698, 0, 0, 0, 0),
    (0, 0.0005313191874358747, 0, 0.00016533814161379112, 0, 0),
    (0, 0, 0, 0.0004179171803251336, 0.0017290828234722833, 0),
    (0.0020827005846636437, 0, 0, 8.826982764996862, 23.19243343998926, 0),
    (
        95.1080498811086,
        0.9863978034400682,
        0.9834382792465353,
        0.0012286405048278493,
        171.2667255897307,
        0.9807858872435379,
    ),
    (0, 0, 0, 0.0005130064588990679, 0, 0.00010854057858411537),
)
"""Of SSIMULACRA2 2.1, from libjxl's tools/ssimulacra2.cc: one row for each channel and scale, finest first; in a
row the means, then the 4-norms, of structural error, new edges and lost edges."""

_OPSIN = np.array(
    [
        [0.30, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ]
)
_OPSIN_BIAS = 0.0037930732552754493
"""Linear RGB -> responses of the cones, ISO/IEC 18181-1, annex L."""


def ssimulacra2(reference: Image, test: Image, *, data_range: float) -> float:
    """SSIMULACRA2, version 2.1: 100 for identical pictures, about 90 for visually lossless, below 0 for very bad.

    J. Sneyers, Cloudinary; the reference is libjxl's tools/ssimulacra2.cc. Pictures are taken as sRGB. The
    reference computes in single precision and this in double, so that they differ in the third digit
    after the point.

    Raises:
        ValueError: As :func:`enhancer.metrics.mse`, and for sides below :data:`SSIMULACRA2_MIN_SIDE`.
    """
    check_pair(reference, test, data_range)
    check_side(reference, SSIMULACRA2_MIN_SIDE, "SSIMULACRA2")
    x, y = (_linear_light(image / data_range) for image in (reference, test))
    rows: list[Plane] = []
    for scale in range(6):
        if min(x.shape[:2]) < SSIMULACRA2_MIN_SIDE:
            break  # The last scale may be half as large: the reference looks before it halves.
        if scale:
            x, y = _halved(x), _halved(y)
        rows.append(_errors(_positive_xyb(x), _positive_xyb(y)))
    # By channel, scale, norm, map. With fewer scales the reference takes the first weights, not the fitting ones.
    errors = np.array(rows).transpose(3, 0, 1, 2).ravel()
    weighted = 0.9562382616834844 * float(np.ravel(_WEIGHTS)[: errors.size] @ errors)
    shaped = weighted * (2.326765642916932 + weighted * (-0.020884521182843837 + weighted * 6.248496625763138e-05))
    return 100.0 - 10.0 * shaped**0.6276336467831387 if shaped > 0 else 100.0


def _linear_light(image: npt.NDArray[np.float64]) -> Plane:
    """Linear RGB, ``(H, W, 3)``, of sRGB in 0..1; IEC 61966-2-1."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _positive_xyb(linear: Plane) -> Plane:
    """XYB, each component moved and scaled to be positive and of like size."""
    cones = np.cbrt(linear @ _OPSIN.T + _OPSIN_BIAS) - math.cbrt(_OPSIN_BIAS)
    x, y, b = (cones[..., 0] - cones[..., 1]) / 2, (cones[..., 0] + cones[..., 1]) / 2, cones[..., 2]
    return np.stack([14.0 * x + 0.42, y + 0.01, b - y + 0.55], axis=2)


def _halved(image: Plane) -> Plane:
    """Means of 2x2 pixels; the last row and column count twice where a side is odd."""
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return (even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]) / 4


def _errors(x: Plane, y: Plane) -> Plane:
    """Mean and 4-norm of the three error maps of each channel: ``(2, 3, channels)``."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = (_blurred(x * x) - mean_x * mean_x) + (_blurred(y * y) - mean_y * mean_y)
    covariance = _blurred(x * y) - mean_x * mean_y
    similarity = (1.0 - (mean_x - mean_y) ** 2) * (2.0 * covariance + 0.0009) / (variances + 0.0009)
    edges = (1.0 + np.abs(y - mean_y)) / (1.0 + np.abs(x - mean_x)) - 1.0
    maps = np.stack([np.maximum(1.0 - similarity, 0.0), np.maximum(edges, 0.0), np.maximum(-edges, 0.0)])
    return np.stack([maps.mean(axis=(1, 2)), (maps**4).mean(axis=(1, 2)) ** 0.25])


def _blurred(image: Plane) -> Plane:
    """Low-pass of sigma 1.5, with zeros outside the picture."""
    from scipy.ndimage import correlate1d

    window = _truncated_cosines(1.5)
    rows = correlate1d(image, window, axis=0, mode="constant")
    blurred: Plane = correlate1d(rows, window, axis=1, mode="constant")
    return blurred


@functools.cache
def _truncated_cosines(sigma: float) -> Plane:
    """The impulse response of libjxl's recursive Gaussian filter.

    A sum of three cosines that vanish at the ends, of the Gaussian's sum, variance and fifth coefficient:
    D. Charalampidis, "Recursive implementation of the Gaussian filter using truncated cosine functions",
    IEEE TSP 2016, eq. 33 to 57.
    """
    radius = round(3.2795 * sigma + 0.2546)
    omega = np.array([1, 3, 5]) * math.pi / (2 * radius)
    p = np.array([1, -1, 1]) / np.tan(omega / 2)
    r = np.array([1, -1, 1]) * p * p / np.sin(omega)
    rho = np.exp(-0.5 * (sigma * omega) ** 2) / radius
    zeta = np.cross(p, r)
    zeta = zeta / zeta[2]
    beta = np.linalg.solve(np.stack([p, r, zeta]), [1.0, radius * radius - sigma * sigma, zeta @ rho])
    response: Plane = np.cos(np.outer(np.arange(-radius, radius + 1), omega)) @ beta
    return response
