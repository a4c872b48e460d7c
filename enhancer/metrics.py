"""Full-reference quality of one picture: PSNR, SSIM, MS-SSIM.

Every function takes the integer arrays that would be written to a file, wants ``data_range`` (the
largest possible value, e.g. 255) spelt out, and returns one value for one picture; averaging over
pictures is the caller's decision. Pictures are ``(H, W)`` gray or ``(H, W, 3)`` RGB, of equal shape
and type. torch is imported by the MS-SSIM functions only.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from codec_wrappers import Image

Matrix: TypeAlias = Literal["bt601", "bt709"]
Plane: TypeAlias = npt.NDArray[np.float64]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float, float]] = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
}
"""Weights of R', G', B' in luma: Rec. ITU-R BT.601-7, sec. 2.5.1 and BT.709-6, item 3.2."""

MS_SSIM_MIN_SIDE = 161
"""Five scales halve a picture four times; its smaller side must then still exceed ten pixels, the
support of the 11-tap window less one."""

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales: Wang et al., Asilomar 2003, sec. 3.2."""


def mse(reference: Image, test: Image, *, data_range: float) -> float:
    """Mean squared error over all samples, with ``data_range`` scaled to 255.

    The scale makes values of 8- and 16-bit pictures comparable: ``psnr_from_mse`` inverts it.

    Raises:
        ValueError: If shape or type differ or are not supported, or ``data_range`` is not positive.
    """
    check_pair(reference, test, data_range)
    # Exact for both integer types: the sum of squares of a whole picture fits into 64 bits.
    difference = reference.astype(np.int64) - test.astype(np.int64)
    return float(np.square(difference).mean(dtype=np.float64)) * (255.0 / data_range) ** 2


def psnr_from_mse(value: float) -> float:
    """PSNR in dB of a mean squared error on the 255 scale; ``math.inf`` for zero."""
    if value < 0 or math.isnan(value):
        raise ValueError(f"a mean squared error is not negative, got {value}")
    return math.inf if value == 0 else 10.0 * math.log10(255.0**2 / value)


def psnr(reference: Image, test: Image, *, data_range: float) -> float:
    """PSNR in dB from the mean squared error over all samples of all channels.

    ``math.inf`` for identical pictures. For errors see :func:`mse`.
    """
    return psnr_from_mse(mse(reference, test, data_range=data_range))


def channel_psnr(reference: Image, test: Image, *, data_range: float) -> tuple[float, ...]:
    """PSNR of each channel on its own: ``(R, G, B)``, or one value for a gray picture."""
    check_pair(reference, test, data_range)
    if reference.ndim == 2:
        return (psnr(reference, test, data_range=data_range),)
    return tuple(psnr(reference[..., c], test[..., c], data_range=data_range) for c in range(3))


def luma(image: Image, *, matrix: Matrix) -> npt.NDArray[np.float64]:
    """Full-range luma Y' of an R'G'B' picture, ``(H, W)``, not rounded; a gray picture is its own luma."""
    if matrix not in LUMA_WEIGHTS:
        raise ValueError(f"matrix must be one of {', '.join(LUMA_WEIGHTS)}, got {matrix!r}")
    if image.ndim == 2:
        return image.astype(np.float64)
    weighted: npt.NDArray[np.float64] = image.astype(np.float64) @ np.array(LUMA_WEIGHTS[matrix])
    return weighted


def y_psnr(reference: Image, test: Image, *, data_range: float, matrix: Matrix) -> float:
    """PSNR in dB of the full-range, unrounded luma of both pictures; see :func:`luma`."""
    check_pair(reference, test, data_range)
    if np.array_equal(reference, test):
        return math.inf
    difference = luma(reference, matrix=matrix) - luma(test, matrix=matrix)
    return psnr_from_mse(float(np.square(difference).mean()) * (255.0 / data_range) ** 2)


def ssim(reference: Image, test: Image, *, data_range: float) -> float:
    """SSIM (Wang et al., IEEE TIP 2004) with its 11x11 Gaussian window, mean over the channels.

    scikit-image's ``structural_similarity`` with the settings of the paper: sigma 1.5, population
    covariance, K1 0.01, K2 0.03.

    Raises:
        ValueError: As :func:`mse`, and for sides below 11 pixels.
    """
    check_pair(reference, test, data_range)
    check_side(reference, 11, "SSIM")
    from skimage.metrics import structural_similarity

    value = structural_similarity(  # type: ignore[no-untyped-call]  # scikit-image has no types
        reference,
        test,
        data_range=data_range,
        channel_axis=None if reference.ndim == 2 else 2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def ms_ssim(reference: Image, test: Image, *, data_range: float) -> float:
    """MS-SSIM (Wang et al., Asilomar 2003, five scales), mean over the channels, as pytorch-msssim has it.

    Computed in double precision.

    Raises:
        ValueError: As :func:`mse`, and for sides below :data:`MS_SSIM_MIN_SIDE`.
    """
    check_pair(reference, test, data_range)
    return _ms_ssim(reference.astype(np.float64), test.astype(np.float64), data_range)


def y_ms_ssim(reference: Image, test: Image, *, data_range: float, matrix: Matrix = "bt601") -> float:
    """MS-SSIM of the full-range, unrounded luma; otherwise as :func:`ms_ssim`."""
    check_pair(reference, test, data_range)
    return _ms_ssim(luma(reference, matrix=matrix), luma(test, matrix=matrix), data_range)


def similarity_db(value: float) -> float:
    """``-10 log10(1 - value)``: spreads SSIM-like values near 1; ``math.inf`` for exactly 1."""
    if not value <= 1.0:
        raise ValueError(f"a similarity is at most 1, got {value}")
    return math.inf if value == 1.0 else -10.0 * math.log10(1.0 - value)


def _ms_ssim(reference: npt.NDArray[np.float64], test: npt.NDArray[np.float64], data_range: float) -> float:
    check_side(reference, MS_SSIM_MIN_SIDE, "MS-SSIM")
    if np.array_equal(reference, test):
        return 1.0  # The filters' rounding would leave it at 1 - 1e-16 and the dB form at 160 instead of infinity.
    window = _ms_ssim_window()
    pairs = zip(_planes(reference), _planes(test), strict=True)
    values = [_ms_ssim_plane(*pair, window, data_range) for pair in pairs]
    return min(math.fsum(values) / len(values), 1.0)


def _planes(image: Plane) -> Plane:
    """``(C, H, W)``, each channel in one piece."""
    planes: Plane = np.ascontiguousarray(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    return planes


def _ms_ssim_plane(reference: Plane, test: Plane, window: Plane, data_range: float) -> float:
    """One channel: contrast and structure of all scales, luminance of the coarsest.

    Five times as fast as pytorch-msssim, whose convolutions in double precision are slow, with the same result.
    """
    value = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            reference, test = _halved(reference), _halved(test)
        mean_r, mean_t = _windowed(reference, window), _windowed(test, window)
        variance_r = _windowed(reference * reference, window) - mean_r * mean_r
        variance_t = _windowed(test * test, window) - mean_t * mean_t
        covariance = _windowed(reference * test, window) - mean_r * mean_t
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        similarity = (2 * covariance + c2) / (variance_r + variance_t + c2)
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            similarity = similarity * (2 * mean_r * mean_t + c1) / (mean_r * mean_r + mean_t * mean_t + c1)
        value *= max(float(similarity.mean()), 0.0) ** weight
    return value


def _windowed(plane: Plane, window: Plane) -> Plane:
    """Weighted means around all pixels that have the whole window around them."""
    from scipy.ndimage import correlate1d

    margin = len(window) // 2
    rows = correlate1d(plane, window, axis=0)[margin:-margin]
    means: Plane = correlate1d(rows, window, axis=1)[:, margin:-margin]
    return means


def _halved(plane: Plane) -> Plane:
    """Means of 2x2 pixels; an odd side gets a line of zeros before and after, as in pytorch-msssim."""
    rows, columns = (side % 2 for side in plane.shape)
    padded = np.pad(plane, ((rows, rows), (columns, columns)))
    height, width = (side // 2 * 2 for side in padded.shape)
    padded = padded[:height, :width]
    means: Plane = (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4
    return means


@functools.cache
def _ms_ssim_window() -> Plane:
    """The 11 Gaussian weights of pytorch-msssim, which computes them in single precision."""
    from pytorch_msssim import MS_SSIM

    window: Plane = MS_SSIM(data_range=1.0, channel=1).win.flatten().double().numpy()
    return window


def check_pair(reference: Image, test: Image, data_range: float) -> None:
    """Raises ``ValueError`` unless the pictures can be compared."""
    for image in (reference, test):
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pictures must be uint8 or uint16, got {image.dtype}")
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
            raise ValueError(f"pictures must be (H, W) or (H, W, 3), got shape {image.shape}")
    if reference.shape != test.shape:
        raise ValueError(f"pictures differ in shape: {reference.shape} and {test.shape}")
    if reference.dtype != test.dtype:
        raise ValueError(f"pictures differ in type: {reference.dtype} and {test.dtype}")
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")


def check_side(image: npt.NDArray[Any], limit: int, name: str) -> None:
    """Raises ``ValueError`` if a side is too short for the metric called ``name``."""
    height, width = image.shape[:2]
    if min(height, width) < limit:
        raise ValueError(f"{name} needs sides of at least {limit} pixels, got {width} x {height}")
