"""Statistics of a picture in which codecs leave their traces; what :mod:`enhancer.estimate` judges by.

No torch in here: a window of 512 x 512 pixels takes about 35 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

MIN_SIDE = 48
"""Of a window, in pixels."""

_LUMA = (0.299, 0.587, 0.114)
_CB = (-0.168736, -0.331264, 0.5)
_CR = (0.5, -0.418688, -0.081312)
_LIMITED_LUMA, _LIMITED_CHROMA = 219 / 255, 224 / 255
# Sums of R, G, B that are whole numbers in a picture that was decoded from 8-bit YCbCr, BT.601 or BT.709.
_LATTICES = (
    _LUMA,
    tuple(_LIMITED_LUMA * a for a in _LUMA),
    tuple(_LIMITED_LUMA * a for a in (0.2126, 0.7152, 0.0722)),
    _CB,
    tuple(_LIMITED_CHROMA * a for a in _CB),
)
LATTICE_TRACES = slice(0, len(_LATTICES))
"""Where :func:`traces` holds how far the colours lie on such lattices; 0 where nothing is known."""
JPEG_TRACES = slice(len(_LATTICES), len(_LATTICES) + 3)
"""Where it holds how well JPEG's quantisation explains the picture, the severity of that, and on how much it rests."""

TRACES = 188
"""How many numbers :func:`traces` returns."""

_LATTICE_SAMPLES = 20_000
_SATURATION = 8.0  # steps in the picture above it are edges of objects, not of blocks
_JPEG_QUALITIES = np.array([*range(2, 95, 2), *range(95, 99)])
_JPEG_COEFFICIENTS = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (2, 2), (3, 1), (1, 3))
# Their entries in table K.1 of Rec. ITU-T T.81.
_JPEG_STEPS = np.array([11, 12, 14, 12, 10, 16, 14, 13, 14, 16, 17, 19])
_ORDERS = 4  # of differences
_HISTOGRAM_STEP, _HISTOGRAM_BINS = 0.25, 2048


def traces(window: Pixels) -> Floats:
    """The statistics of a picture ``(H, W, 3)`` with sides of at least 48 that the network judges by.

    They do not depend on where the codec's grid of blocks lies: that is found first. In order:

    - whether luma and chroma are whole numbers in the representations that 8-bit codecs use;
    - the JPEG quality whose quantisation steps explain the low coefficients of 8x8 blocks best;
    - steps at distances of 8, 16, 4 and 2 pixels, compared with those in between;
    - mean size and mean log size of the DCT coefficients of 8x8 blocks: of luma, of luma at half
      size, of chroma;
    - percentiles of the detail in a block, in three bands of frequency;
    - what halving and interpolating chroma leaves: few fine differences, and others at odd than at
      even samples; and where along the grid its steps lie.
    """
    height, width = window.shape[:2]
    planes = (window.reshape(-1, 3).astype(np.float32) @ _colour_matrix()).T.reshape(3, height, width)
    luma = planes[0]
    top, left, grid = _grid_traces(luma)
    coefficients = _dct(luma[top:, left:])
    half = luma[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    chroma = np.concatenate([_dct(plane[top:, left:]) for plane in planes[1:]])
    return np.concatenate(
        [
            _lattice_traces(window),
            _jpeg_traces(coefficients),
            grid,
            _band_traces(coefficients, _symmetric_groups()),
            _band_traces(_dct(half), _radial_groups()),
            _band_traces(chroma, _radial_groups()),
            _percentile_traces(coefficients),
            _chroma_traces(window, top, left),
        ],
        dtype=np.float32,
    )


@lru_cache(maxsize=1)
def _colour_matrix() -> Floats:
    return np.array([_LUMA, _CB, _CR], np.float32).T


def _lattice_traces(window: Pixels) -> Floats:
    """Length of the mean of exp(2 pi i v), ``v`` a sum that should be whole: 0 by chance, about 0.45 if it is."""
    step = max(1, int((window.shape[0] * window.shape[1] / _LATTICE_SAMPLES) ** 0.5))
    colours = window[::step, ::step].reshape(-1, 3)
    colours = colours[((colours > 0) & (colours < 255)).all(axis=1)]
    if len(colours) < 500 or (colours == colours[:, :1]).all():
        return np.zeros(len(_LATTICES), np.float32)
    red, green, blue = colours.T
    means = [(a[red] * b[green] * c[blue]).mean() for a, b, c in _lattice_tables()]
    return np.minimum(np.abs(means), 0.6).astype(np.float32)


@lru_cache(maxsize=1)
def _lattice_tables() -> list[list[npt.NDArray[np.complex64]]]:
    values = np.arange(256)
    return [[np.exp(2j * np.pi * a * values).astype(np.complex64) for a in lattice] for lattice in _LATTICES]


def _grid_traces(luma: Floats) -> tuple[int, int, Floats]:
    """First row and column of the 8x8 grid of blocks, and how the steps at its lines stand out."""
    across = np.diff(luma, axis=1)
    down = np.diff(luma, axis=0)
    # Steps of steps, along both axes: objects are smooth along their edges, blocks end at their corners.
    crossed = np.minimum(np.abs(np.diff(across, axis=0)), _SATURATION)
    across, down = np.minimum(np.abs(across), _SATURATION), np.minimum(np.abs(down), _SATURATION)
    starts, statistics = [], []
    for plain, cross in ((down.mean(axis=1), crossed.mean(axis=1)), (across.mean(axis=0), crossed.mean(axis=0))):
        folded = np.stack([_folded(plain), _folded(cross)])  # (2, 16)
        by_8 = folded.sum(axis=0).reshape(2, 8).sum(axis=0)
        start = int(by_8.argmax())
        starts.append((start + 1) % 8)  # step i lies between samples i and i + 1
        aligned = np.roll(folded, -start, axis=1)
        eights = (aligned[:, :8] + aligned[:, 8:]) / 2
        others = eights[:, [1, 3, 5, 7]].mean(axis=1)
        statistics.append(
            [eights[:, 0], eights[:, 4], eights[:, [2, 6]].mean(axis=1), others, np.abs(aligned[:, 0] - aligned[:, 8])]
        )
    flat = [np.mean(across < 0.6), np.mean(down < 0.6), np.mean(crossed < 0.6)]
    level = [np.log(0.05 + across.mean()), np.log(0.05 + down.mean()), np.log(0.05 + crossed.mean())]
    grid = np.mean(statistics, axis=0).ravel()
    return starts[0], starts[1], np.concatenate([grid, flat, level]).astype(np.float32)


def _folded(profile: Floats) -> Floats:
    """What each step has more than its neighbours, relative to all, by position modulo 16."""
    excess = profile.copy()
    excess[1:-1] -= (profile[:-2] + profile[2:]) / 2
    excess[[0, -1]] = 0
    length = len(excess) // 16 * 16
    folded: Floats = excess[:length].reshape(-1, 16).mean(axis=0) / (profile.mean() + 0.05)
    return folded


@lru_cache(maxsize=1)
def _dct_matrix() -> Floats:
    """Orthonormal 8x8 DCT-II as a matrix for blocks as rows of 64 samples: ``blocks @ matrix``."""
    frequency, position = np.mgrid[:8, :8]
    dct = np.cos(np.pi * (2 * position + 1) * frequency / 16) * np.where(frequency == 0, 8**-0.5, 0.5)
    return np.kron(dct, dct).T.astype(np.float32)


def _dct(plane: Floats) -> Floats:
    """Coefficients ``(blocks, 64)`` of the whole 8x8 blocks of a plane."""
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    blocks = plane[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 64)
    coefficients: Floats = blocks @ _dct_matrix()
    return coefficients


def _jpeg_traces(coefficients: Floats) -> Floats:
    """How well, with which severity and by how many values JPEG's tables explain the coefficients.

    Values that are multiples of a step ``q`` have a mean of cos(2 pi value / q) near 1, others near 0. Those
    that round to zero say nothing. Finer steps that divide the true ones fit as well: the coarsest wins.
    """
    chosen = [8 * row + column for row, column in _JPEG_COEFFICIENTS]
    bins = np.minimum(np.abs(coefficients[:, chosen]) / _HISTOGRAM_STEP + 0.5, _HISTOGRAM_BINS - 1).astype(np.intp)
    bins += np.arange(len(chosen)) * _HISTOGRAM_BINS
    histogram = np.bincount(bins.ravel(), minlength=len(chosen) * _HISTOGRAM_BINS).astype(np.float32)
    cosines, told = _jpeg_tables()
    counts = told @ histogram
    fits = (cosines @ histogram) / (counts + 20)
    padded = np.concatenate([[-1], fits, [-1]])
    peaks = (fits >= padded[:-2]) & (fits >= padded[2:]) & (fits >= 0.7 * fits.max())
    best = int(peaks.argmax())
    severity = 1 - _JPEG_QUALITIES[best] / 100
    return np.array([fits[best], severity, np.log(1 + counts[best]) / 10], np.float32)


@lru_cache(maxsize=1)
def _jpeg_tables() -> tuple[Floats, Floats]:
    """Per quality and bin of all histograms, the cosine, and whether the bin tells anything."""
    qualities = np.maximum(_JPEG_QUALITIES, 1)
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    steps = ((_JPEG_STEPS * scale[:, None] + 50) // 100).clip(1, 255)[..., None]
    values = np.arange(_HISTOGRAM_BINS) * _HISTOGRAM_STEP
    told = (values > 0.5 * steps) & (values < _HISTOGRAM_STEP * (_HISTOGRAM_BINS - 1))
    cosines = np.where(told, np.cos(2 * np.pi * values / steps), 0)
    return cosines.reshape(len(scale), -1).astype(np.float32), told.reshape(len(scale), -1).astype(np.float32)


@lru_cache(maxsize=1)
def _symmetric_groups() -> Floats:
    """Means over the coefficients (u, v) and (v, u) without the first one: ``(64, 35)``."""
    names = [tuple(sorted(pair)) for pair in product(range(8), repeat=2)]
    return _groups(names)[:, 1:]


@lru_cache(maxsize=1)
def _radial_groups() -> Floats:
    """Means over the coefficients of equal u + v without the first one: ``(64, 14)``."""
    return _groups([u + v for u, v in product(range(8), repeat=2)])[:, 1:]


def _groups(names: list[Any]) -> Floats:
    kinds = sorted(set(names))
    members = np.array([[name == kind for kind in kinds] for name in names], np.float32)
    means: Floats = members / members.sum(axis=0)
    return means


def _band_traces(coefficients: Floats, groups: Floats) -> Floats:
    """Log of the mean size, and mean of the log size, of each group of coefficients."""
    size = np.abs(coefficients)
    means = np.log(size.mean(axis=0) @ groups + 0.02)
    logs = np.log(size + 0.3).mean(axis=0) @ groups
    return np.concatenate([means, logs])


def _percentile_traces(coefficients: Floats) -> Floats:
    """Percentiles over blocks of the log of the mean coefficient in a low, a middle and a high band."""
    radius = np.add.outer(np.arange(8), np.arange(8)).ravel()
    bands = np.stack([(radius > 1) & (radius < 5), (radius > 4) & (radius < 8), radius > 7], axis=1)
    detail = np.abs(coefficients) @ (bands / bands.sum(axis=0)).astype(np.float32)
    percentiles: Floats = np.percentile(np.log(detail + 0.05), (5, 15, 30, 50, 70, 85, 95), axis=0)
    return percentiles.ravel()


def _chroma_traces(window: Pixels, top: int, left: int) -> Floats:
    """How fine differences of chroma are, and how they change from sample to sample along the grid.

    Differences of colours hold no luma, whatever matrix they came by.
    """
    colours = window.astype(np.float32)
    green = colours[..., 1]
    planes = (colours[..., 0] - green, colours[..., 2] - green)
    chroma = np.mean([_axis_traces(each, start) for p in planes for each, start in ((p.T, top), (p, left))], axis=0)
    luma = np.log(np.array([profile.mean() for profile in _profiles(green)]) + 0.05)
    return np.concatenate([chroma, luma - chroma[_ORDERS : 2 * _ORDERS]]).astype(np.float32)


def _axis_traces(plane: Floats, start: int) -> Floats:
    """Along rows: periods of two samples and size of each order of differences, then the steps on a grid of 16."""
    profiles = list(_profiles(plane))
    even, odd = (np.array([profile[parity::2].mean() for profile in profiles]) + 0.05 for parity in (0, 1))
    folded = np.roll(_folded(profiles[0]), 1 - start)  # step i lies between samples i and i + 1
    at_lines = sorted((folded[0], folded[8]))
    between = (folded[4::8].mean(), folded[2::4].mean(), folded[1::2].mean())
    sizes = [np.log(profile.mean() + 0.05) for profile in profiles]
    return np.concatenate([np.abs(np.log(even / odd)), sizes, at_lines, between]).astype(np.float32)


def _profiles(plane: Floats) -> Iterator[Floats]:
    """Mean size of the first to the last order of differences along the rows of a plane, by column."""
    differences = plane
    for _ in range(_ORDERS):
        differences = np.diff(differences, axis=1)
        yield np.minimum(np.abs(differences), 2 * _SATURATION).mean(axis=0)
