"""libbpg's conversion between pictures and planes, in its exact integer arithmetic.

The decoding half gives the same samples as libbpg 0.9.8 for 8-bit output; the encoding half uses its
filters too. Sizes need not be even: chroma planes hold ``ceil(n / 2)`` samples, and borders are
repeated. Works in strips of rows, so that the temporary arrays stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from codec_wrappers.base import Chroma, Image

Plane: TypeAlias = npt.NDArray[Any]
_Ints: TypeAlias = npt.NDArray[np.int64]

_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Weights of red and blue in luma."""
_STRIP = 64  # rows; even
_FINE_BITS = 5  # below the last of a chroma sample; the filters have at least six

_UP_CENTER = (-1, 4, -10, 57, 18, -6, 2)  # odd samples; mirrored for even ones
_UP_LEFT = (-1, 4, -11, 40, 40, -11, 4, -1)  # odd samples; even ones are the chroma samples themselves
_DOWN_CENTER = (2, -4, -8, 17, 57, 57, 17, -8, -4, 2)
_DOWN_LEFT = (-1, 0, 4, 0, -11, 0, 40, 64, 40, 0, -11, 0, 4, 0, -1)


def plane_dtype(bit_depth: int) -> np.dtype[Any]:
    """Type of a plane's samples."""
    return np.dtype(np.uint8 if bit_depth == 8 else np.uint16)


@dataclass(frozen=True)
class SampleFormat:
    """What the samples of a picture's planes mean.

    Attributes:
        chroma: Chroma format.
        left_sited: Subsampled chroma is co-sited with the even columns; otherwise it lies between columns.
        bit_depth: Bits per sample.
        color_space: One of ``bpg_container.COLOR_SPACES``. Planes are Y, Cb, Cr; for RGB: G, B, R; for
            YCgCo: Y, Cg, Co.
        limited_range: There is head- and footroom.
    """

    chroma: Chroma
    left_sited: bool
    bit_depth: int
    color_space: str
    limited_range: bool


def image_to_planes(image: Image, samples: SampleFormat) -> list[Plane]:
    """Converts a gray (for chroma format 400) or RGB picture, uint8 or uint16, to planes as they are coded."""
    height, width = image.shape[:2]
    chroma, left_sited, bit_depth = samples.chroma, samples.left_sited, samples.bit_depth
    matrix, offsets, shift = _forward(image.dtype.itemsize * 8, samples)
    planes = [np.empty((height, width), plane_dtype(bit_depth)) for _ in offsets]
    for top in range(0, height, _STRIP):
        rows = image[top : top + _STRIP].reshape(-1, width, len(offsets)).astype(np.int64)
        for plane, weights, offset in zip(planes, matrix, offsets, strict=True):
            total = sum(rows[..., k] * weight for k, weight in enumerate(weights))
            plane[top : top + _STRIP] = _clip((total + offset) >> shift, bit_depth)
    if chroma in ("420", "422"):
        planes[1:] = [_shrink(plane, chroma == "420", left_sited, bit_depth) for plane in planes[1:]]
    return planes


def planes_to_image(
    planes: Sequence[Plane], samples: SampleFormat, output_depth: int, *, fine_chroma: bool = False
) -> Image:
    """Inverse of :func:`image_to_planes`.

    Args:
        planes: As they were decoded.
        samples: What they hold.
        output_depth: 8 (uint8) or 16 (uint16).
        fine_chroma: Keep the fraction of interpolated chroma, which libbpg rounds to the planes' bit depth.
    """
    height, width = planes[0].shape
    bit_depth = samples.bit_depth
    matrix, offset, shift = _backward(output_depth, samples)
    fraction = _FINE_BITS if fine_chroma else 0
    offset, shift = offset << fraction, shift + fraction
    chroma = samples.chroma
    if chroma == "400":
        matrix = matrix[:1, :1]
    shape = (height, width) if chroma == "400" else (height, width, 3)
    image = np.empty(shape, plane_dtype(output_depth))
    center = 0 if samples.color_space == "rgb" else 1 << (bit_depth - 1)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        parts = [planes[0][top:bottom].astype(np.int64) << fraction]
        parts += [_grow(plane, samples, fraction, top, bottom, width) - (center << fraction) for plane in planes[1:]]
        strip = image[top:bottom].reshape(bottom - top, width, len(parts))
        for channel, weights in enumerate(matrix):
            total = sum(part * weight for part, weight in zip(parts, weights, strict=True) if weight)
            strip[..., channel] = _clip((total + offset) >> shift, output_depth)
    return image


def premultiply(rgb: Image, alpha: Image) -> Image:
    """Multiplies colours by alpha; both of the same type."""
    full = np.iinfo(rgb.dtype).max
    out = np.empty_like(rgb)
    for rows in _strips(len(rgb)):
        out[rows] = (rgb[rows].astype(np.uint64) * alpha[rows, :, None] + full // 2) // full
    return out


def unpremultiply(rgb: Image, alpha: Image) -> Image:
    """Divides colours by alpha; where alpha is zero, or colours exceed it, they become white (full scale)."""
    full = int(np.iinfo(rgb.dtype).max)
    bits, extra = (16, 128) if full == 255 else (15, 0)
    out = np.empty_like(rgb)
    for rows in _strips(len(rgb)):
        color, a = rgb[rows].astype(np.int64), alpha[rows, :, None].astype(np.int64)
        inverse = ((full << bits) + a // 2 + extra) // np.maximum(a, 1)
        out[rows] = np.where(color >= a, full, (color * inverse + (1 << (bits - 1))) >> bits)
    return out


def multiply_white(rgb: Image, white: Plane, bit_depth: int) -> Image:
    """RGB of a picture stored with a fourth plane ``W = 1 - K``, samples of ``bit_depth`` bits."""
    out = np.empty_like(rgb)
    for rows in _strips(len(rgb)):
        out[rows] = (rgb[rows].astype(np.int64) * white[rows, :, None] + (1 << (bit_depth - 1))) >> bit_depth
    return out


def _strips(height: int) -> Iterator[slice]:
    return (slice(top, top + _STRIP) for top in range(0, height, _STRIP))


def _clip(values: _Ints, bit_depth: int) -> _Ints:
    return np.clip(values, 0, (1 << bit_depth) - 1, out=values)


def _ranges(samples: SampleFormat) -> tuple[int, int, int]:
    """Largest luma and chroma excursion, and the value of black."""
    scale = 1 << (samples.bit_depth - 8)
    if not samples.limited_range:
        return 256 * scale - 1, 256 * scale - 1, 0
    # libbpg scales all planes of RGB and YCgCo like luma.
    return 219 * scale, (224 if samples.color_space in _WEIGHTS else 219) * scale, 16 * scale


def _forward(input_depth: int, samples: SampleFormat) -> tuple[_Ints, list[int], int]:
    """Fixed-point matrix from RGB to planes, offsets (rounding included) and right shift.

    For gray pictures the first element of the matrix and the first offset count.
    """
    shift = 23 + input_depth - samples.bit_depth  # libbpg's for 8-bit pictures
    black = _ranges(samples)[2] << shift
    luma, chroma = (value * 2.0**shift / ((1 << input_depth) - 1) for value in _ranges(samples)[:2])
    half = 1 << (shift - 1)
    center = 1 << (samples.bit_depth - 1 + shift)
    if samples.chroma == "400" or samples.color_space == "rgb":
        green_first = np.array([[0, luma, 0], [0, 0, luma], [luma, 0, 0]])
        rows = np.full((1, 1), luma) if samples.chroma == "400" else green_first
        return np.rint(rows).astype(np.int64), [half + black] * len(rows), shift
    if samples.color_space == "ycgco":
        rows = np.array([[1, 2, 1], [-1, 2, -1], [2, 0, -2]]) * luma / 4
    else:
        red, blue = _WEIGHTS[samples.color_space]
        to_y = np.array([red, 1 - red - blue, blue])
        to_cb = (np.array([0, 0, 1]) - to_y) / (2 * (1 - blue))
        to_cr = (np.array([1, 0, 0]) - to_y) / (2 * (1 - red))
        rows = np.array([to_y * luma, to_cb * chroma, to_cr * chroma])
    return np.rint(rows).astype(np.int64), [half + black, half + center, half + center], shift


def _backward(output_depth: int, samples: SampleFormat) -> tuple[_Ints, int, int]:
    """Fixed-point matrix from planes (chroma centred on zero) to RGB, offset and right shift.

    For gray pictures the first element of the matrix counts.
    """
    shift = 30 - output_depth
    luma_range, chroma_range, black = _ranges(samples)
    scale = ((1 << output_depth) - 1) * 2.0**shift
    one, chroma = round(scale / luma_range), scale / chroma_range
    offset = (1 << (shift - 1)) - black * one
    if samples.color_space == "rgb":
        return one * np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), offset, shift
    if samples.color_space == "ycgco":
        return one * np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]]), offset, shift
    red, blue = _WEIGHTS[samples.color_space]
    green = 1 - red - blue
    factors = np.array(
        [
            [0, 2 * (1 - red)],
            [-2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [2 * (1 - blue), 0],
        ]
    )
    weights = np.rint(factors * chroma).astype(np.int64)
    return np.column_stack([np.full(3, one), weights]), offset, shift


def _filter(x: _Ints, taps: Sequence[int], first: int, count: int, step: int = 1) -> _Ints:
    """``out[i] = sum(taps[k] * x[first + step * i + k])`` along the last axis, borders repeated."""
    end = first + step * (count - 1) + len(taps)
    before, after = max(0, -first), max(0, end - x.shape[-1])
    x = np.pad(x, ((0, 0), (before, after)), mode="edge")
    first += before
    last = step * (count - 1) + 1
    out: _Ints = sum(tap * x[:, first + k : first + k + last : step] for k, tap in enumerate(taps) if tap)  # type: ignore[assignment]
    return out


def _rows(plane: Plane, first: int, last: int) -> _Ints:
    """Rows ``first`` to ``last - 1`` as integers, borders repeated."""
    index = np.clip(np.arange(first, last), 0, len(plane) - 1)
    return plane[index].astype(np.int64)


def _shrink(plane: Plane, vertical: bool, left_sited: bool, bit_depth: int) -> Plane:
    """Halves the width and, if ``vertical``, the height."""
    height, width = plane.shape
    out_width = (width + 1) // 2
    out = np.empty(((height + 1) // 2 if vertical else height, out_width), plane.dtype)
    taps, first = (_DOWN_LEFT, -7) if left_sited else (_DOWN_CENTER, -4)
    for strip in _strips(len(out)):
        top, bottom = strip.start, min(strip.stop, len(out))
        if not vertical:
            values = (_filter(_rows(plane, top, bottom), taps, first, out_width, 2) + 64) >> 7
        else:
            values = _filter(_rows(plane, 2 * top - 4, 2 * bottom + 4), taps, first, out_width, 2)
            values = (values + (1 << (bit_depth - 8))) >> (bit_depth - 7)
            values = _filter(values.T, _DOWN_CENTER, 0, bottom - top, 2).T
            values = (values + (1 << (20 - bit_depth))) >> (21 - bit_depth)
        out[top:bottom] = _clip(values, bit_depth)
    return out


def _grow(plane: Plane, samples: SampleFormat, fraction: int, top: int, bottom: int, width: int) -> _Ints:
    """Rows ``top`` (even) to ``bottom - 1`` of a chroma plane at full resolution, ``fraction`` bits of it fractions."""
    chroma, left_sited, bit_depth = samples.chroma, samples.left_sited, samples.bit_depth
    if chroma == "444":
        return plane[top:bottom].astype(np.int64) << fraction
    peak = ((1 << bit_depth) - 1) << fraction
    if chroma == "422":
        return np.clip(_widen(plane[top:bottom].astype(np.int64), width, left_sited, 6 - fraction), 0, peak)
    first, count = top // 2, (bottom - top + 1) // 2
    source = _rows(plane, first - 3, first + count + 3).T
    tall = np.empty((2 * count, plane.shape[1]), np.int64)
    tall[0::2] = _filter(source, _UP_CENTER[::-1], 0, count).T
    tall[1::2] = _filter(source, _UP_CENTER, 0, count).T
    bits = bit_depth - 8
    tall = (tall + ((1 << bits) >> 1)) >> bits
    return np.clip(_widen(tall[: bottom - top], width, left_sited, 20 - bit_depth - fraction), 0, peak)


def _widen(x: _Ints, width: int, left_sited: bool, shift: int) -> _Ints:
    """Doubles the number of columns, drops the last if ``width`` is odd, and shifts right with rounding."""
    count = x.shape[1]
    wide = np.empty((x.shape[0], 2 * count), np.int64)
    if left_sited:
        wide[:, 0::2] = 64 * x
        wide[:, 1::2] = _filter(x, _UP_LEFT, -3, count)
    else:
        wide[:, 0::2] = _filter(x, _UP_CENTER[::-1], -3, count)
        wide[:, 1::2] = _filter(x, _UP_CENTER, -3, count)
    return (wide[:, :width] + (1 << (shift - 1))) >> shift
