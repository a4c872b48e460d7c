"""RGB <-> YCbCr at any bit depth, and chroma planes at half resolution.

Matrices and quantisation follow Rec. ITU-T H.273, clause 8.3. Real values become integers by
rounding. Pictures are worked through in strips of rows, so that apart from the planes themselves a
few megabytes suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codec_wrappers.base import Image

Plane: TypeAlias = npt.NDArray[Any]
"""One component, ``(H, W)``: float32 or unsigned integer."""

ChromaFilter: TypeAlias = Literal["ls-lanczos3", "ls-bicubic", "lanczos3", "bicubic"]
"""How chroma is halved. ``ls-K``: the least-squares inverse of up-sampling with kernel ``K``, that is
the half-resolution plane whose up-sampled version is nearest to the original; ``K``: low-pass
filtering with the kernel stretched by two."""

Kernel: TypeAlias = Literal["lanczos3", "bicubic", "linear"]

STRIP_ROWS = 64
_TAPS: dict[Kernel, int] = {"lanczos3": 3, "bicubic": 2, "linear": 1}  # half width of the kernel, in samples


@dataclass(frozen=True)
class YCbCrFormat:
    """How RGB values become integers.

    Attributes:
        kr: Weight of red in luma.
        kb: Weight of blue in luma.
        full_range: Whether luma uses all codes (0 to 2^n - 1) or 16 to 235, scaled by 2^(n - 8).
        bit_depth: n, bits per sample, 8 to 16.
    """

    kr: float
    kb: float
    full_range: bool
    bit_depth: int

    @property
    def luma_scale(self) -> float:
        return float((1 << self.bit_depth) - 1 if self.full_range else 219 << (self.bit_depth - 8))

    @property
    def chroma_scale(self) -> float:
        return float((1 << self.bit_depth) - 1 if self.full_range else 224 << (self.bit_depth - 8))

    @property
    def luma_offset(self) -> float:
        return 0.0 if self.full_range else float(16 << (self.bit_depth - 8))

    @property
    def neutral(self) -> int:
        """The chroma code of gray."""
        return 1 << (self.bit_depth - 1)


BT601 = (0.299, 0.114)
BT709 = (0.2126, 0.0722)
BT2020 = (0.2627, 0.0593)


@dataclass(frozen=True)
class Siting:
    """Where a half-resolution chroma sample lies, in luma samples from the first of its two."""

    horizontal: float
    vertical: float


CENTRE = Siting(0.5, 0.5)
LEFT = Siting(0.0, 0.5)


def rgb_to_yuv420(
    image: Image, form: YCbCrFormat, *, chroma_filter: ChromaFilter = "ls-lanczos3", siting: Siting = CENTRE
) -> tuple[Plane, Plane, Plane]:
    """Luma and half-resolution chroma planes of an RGB picture, as integers.

    Args:
        image: uint8 or uint16, full range, ``(H, W, 3)``; H and W even.
        form: Matrix, range and bit depth of the result.
        chroma_filter: How chroma is halved.
        siting: Where chroma samples lie.

    Returns:
        Y ``(H, W)``, Cb and Cr ``(H / 2, W / 2)``, uint8 when ``form.bit_depth`` is 8, else uint16.

    Raises:
        ValueError: If H or W is odd.
    """
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"4:2:0 planes need even sides, got {width} x {height}")
    y = np.empty((height, width), _integer_type(form))
    narrow = np.empty((2, height, width // 2), np.float32)
    halve_rows = Halver(width, chroma_filter, siting.horizontal)
    for rows in _strips(height):
        luma, cb, cr = rgb_to_ycbcr(_to_unit(image[rows]), form)
        y[rows] = quantise_luma(luma, form)
        narrow[0, rows], narrow[1, rows] = halve_rows(cb.T).T, halve_rows(cr.T).T
    halve_columns = Halver(height, chroma_filter, siting.vertical)
    planes = []
    for plane in narrow:
        small = np.empty((height // 2, width // 2), y.dtype)
        for columns in _strips(width // 2):
            small[:, columns] = quantise_chroma(halve_columns(plane[:, columns]), form)
        planes.append(small)
    return y, planes[0], planes[1]


def yuv_to_rgb(
    planes: tuple[Plane, Plane, Plane],
    form: YCbCrFormat,
    *,
    kernel: Kernel = "lanczos3",
    siting: Siting = CENTRE,
    size: tuple[int, int] | None = None,
    output_depth: Literal[8, 16] = 8,
) -> Image:
    """RGB picture of integer planes; the inverse of :func:`rgb_to_yuv420`, rounded once.

    Args:
        planes: Y ``(H, W)``, Cb and Cr; each side of chroma is that of luma or half of it, rounded up.
        form: Matrix, range and bit depth of the planes.
        kernel: Interpolation of chroma.
        siting: Where chroma samples lie.
        size: Height and width of the upper left part to return; None: all.
        output_depth: 8 for uint8, 16 for uint16.
    """
    y, cb, cr = planes
    height, width = size or y.shape
    down = doubling_matrix(cb.shape[0], kernel, siting.vertical) if cb.shape[0] != y.shape[0] else None
    right = doubling_matrix(cb.shape[1], kernel, siting.horizontal)[:width] if cb.shape[1] != y.shape[1] else None
    image = np.empty((height, width, 3), np.uint8 if output_depth == 8 else np.uint16)
    for rows in _strips(height):
        luma = (y[rows, :width].astype(np.float32) - np.float32(form.luma_offset)) / np.float32(form.luma_scale)
        chroma = [
            _upsampled(plane, rows, width, down, right, form.neutral) / np.float32(form.chroma_scale)
            for plane in (cb, cr)
        ]
        image[rows] = from_unit(ycbcr_to_rgb(luma, chroma[0], chroma[1], form), output_depth)
    return image


def luma_to_gray(y: Plane, form: YCbCrFormat, *, output_depth: Literal[8, 16] = 8) -> Image:
    """Gray picture of a luma plane, rounded once."""
    image = np.empty(y.shape, np.uint8 if output_depth == 8 else np.uint16)
    for rows in _strips(y.shape[0]):
        luma = (y[rows].astype(np.float32) - np.float32(form.luma_offset)) / np.float32(form.luma_scale)
        image[rows] = from_unit(luma, output_depth)
    return image


def gray_to_luma(image: Image, form: YCbCrFormat) -> Plane:
    """Luma plane of a gray picture (uint8 or uint16, full range)."""
    y = np.empty(image.shape, _integer_type(form))
    for rows in _strips(image.shape[0]):
        y[rows] = quantise_luma(_to_unit(image[rows]), form)
    return y


def rgb_to_ycbcr(rgb: Plane, form: YCbCrFormat) -> tuple[Plane, Plane, Plane]:
    """Real-valued Y in [0, 1], Cb and Cr in [-0.5, 0.5] of RGB in [0, 1], ``(..., 3)``; keeps the dtype."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = form.kr * red + (1 - form.kr - form.kb) * green + form.kb * blue
    return y, (blue - y) / (2 - 2 * form.kb), (red - y) / (2 - 2 * form.kr)


def ycbcr_to_rgb(y: Plane, cb: Plane, cr: Plane, form: YCbCrFormat) -> Plane:
    """Inverse of :func:`rgb_to_ycbcr`; not clamped."""
    red = y + (2 - 2 * form.kr) * cr
    blue = y + (2 - 2 * form.kb) * cb
    green = (y - form.kr * red - form.kb * blue) / (1 - form.kr - form.kb)
    return np.stack([red, green, blue], axis=-1)


def quantise_luma(y: Plane, form: YCbCrFormat) -> Plane:
    """Integer codes of luma in [0, 1]."""
    return _round(y * form.luma_scale + form.luma_offset, form)


def quantise_chroma(plane: Plane, form: YCbCrFormat) -> Plane:
    """Integer codes of chroma in [-0.5, 0.5]."""
    return _round(plane * form.chroma_scale + form.neutral, form)


def from_unit(values: Plane, output_depth: Literal[8, 16]) -> Image:
    """Integers of real values, of which 0..1 becomes the full range; values outside are clamped."""
    peak = (1 << output_depth) - 1
    image: Image = np.rint(np.clip(values, 0, 1) * peak).astype(np.uint8 if output_depth == 8 else np.uint16)
    return image


class Halver:
    """Halves the length of the first axis of float planes.

    Args:
        length: Length of that axis, even.
        chroma_filter: See :data:`ChromaFilter`.
        position: Where a result lies between its two samples: 0 on the first, 0.5 centred.
    """

    def __init__(self, length: int, chroma_filter: ChromaFilter, position: float) -> None:
        self._cholesky: Plane | None = None
        if chroma_filter == "ls-lanczos3":
            self._set_least_squares(doubling_matrix(length // 2, "lanczos3", position))
        elif chroma_filter == "ls-bicubic":
            self._set_least_squares(doubling_matrix(length // 2, "bicubic", position))
        else:
            self._matrix = _resampling_matrix(length, 2 * np.arange(length // 2) + position, chroma_filter, stretch=2)

    def _set_least_squares(self, doubling: Any) -> None:
        """Normal equations of ``min |doubling @ c - x|``: banded, factored once."""
        from scipy.linalg import cholesky_banded

        normal = (doubling.T @ doubling).todia()
        bands = np.zeros((normal.offsets.max() + 1, normal.shape[0]))
        for offset in range(len(bands)):  # lower form: bands[i, j] = normal[i + j, j]
            bands[offset, : normal.shape[0] - offset] = normal.diagonal(-offset)
        self._cholesky = cholesky_banded(bands, lower=True)
        self._matrix = doubling.T.tocsr()

    def __call__(self, plane: Plane) -> Plane:
        """``(length / 2, N)`` float32 from ``(length, N)``."""
        result = self._matrix @ np.ascontiguousarray(plane, dtype=np.float64)
        if self._cholesky is not None:
            from scipy.linalg import cho_solve_banded

            result = cho_solve_banded((self._cholesky, True), result, overwrite_b=True, check_finite=False)
        return np.asarray(result, dtype=np.float32)


@lru_cache(maxsize=16)
def doubling_matrix(length: int, kernel: Kernel, position: float) -> Any:
    """Sparse ``(2 * length, length)`` matrix that interpolates ``length`` samples at twice the density.

    Args:
        length: Number of samples.
        kernel: Interpolation kernel.
        position: Where a sample lies between its two results: 0 on the first, 0.5 centred.
    """
    return _resampling_matrix(length, (np.arange(2 * length) - position) / 2, kernel, stretch=1)


def _resampling_matrix(length: int, positions: Plane, kernel: Kernel, stretch: int) -> Any:
    """Sparse matrix of filters around ``positions``, in samples; the border sample is repeated outside."""
    from scipy.sparse import csr_array

    radius = _TAPS[kernel] * stretch
    first = np.floor(positions).astype(int) - radius + 1
    taps = first[:, None] + np.arange(2 * radius)
    weights = _kernel((taps - positions[:, None]) / stretch, kernel)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(positions)), 2 * radius)
    columns = np.clip(taps, 0, length - 1).ravel()
    return csr_array((weights.ravel(), (rows, columns)), shape=(len(positions), length))


def _kernel(x: Plane, kernel: Kernel) -> Plane:
    """Value at distance ``x`` of an interpolation kernel."""
    x = np.abs(x)
    if kernel == "linear":
        return np.asarray(np.maximum(1 - x, 0.0))
    if kernel == "lanczos3":
        return np.asarray(np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0))
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    return np.asarray(np.where(x < 1, inner, np.where(x < 2, outer, 0.0)))  # Keys, 1981, with a = -1/2


def _upsampled(plane: Plane, rows: slice, width: int, down: Any, right: Any, neutral: int) -> Plane:
    """Chroma at full resolution, float32 around 0, for some rows of the picture."""
    if down is None:
        strip = plane[rows].astype(np.float32) - neutral
    else:
        taps = down[rows]
        first, last = taps.indices.min(), taps.indices.max() + 1
        strip = taps[:, first:last] @ (plane[first:last].astype(np.float32) - neutral)
    return strip[:, :width].astype(np.float32) if right is None else (right @ strip.T).T.astype(np.float32)


def _strips(length: int) -> Iterator[slice]:
    for start in range(0, length, STRIP_ROWS):
        yield slice(start, min(start + STRIP_ROWS, length))


def _to_unit(image: Image) -> Plane:
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _round(values: Plane, form: YCbCrFormat) -> Plane:
    return np.clip(np.rint(values), 0, (1 << form.bit_depth) - 1).astype(_integer_type(form))


def _integer_type(form: YCbCrFormat) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if form.bit_depth == 8 else np.uint16
