"""Draws training crops from a pair store: step and sample number decide, nothing else is remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from enhancer.condition import QP_SCALES, condition_size, condition_vector
from train.config import DataSettings, TrainConfig
from train.store import Pair, PairStore

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

GPU_SHARE = 0.6
"""Share of a GPU's free memory that the pixels may take; a larger store stays in the machine's memory."""

_NUMBERS = 10  # uniform random numbers a crop


@dataclass(frozen=True)
class Batch:
    """Crops on the training device.

    Attributes:
        x: Decoded crops, ``(N, 3, S, S)``, float32 in [0, 1].
        target: Original crops, same shape.
        condition: Condition vectors, ``(N, K)``.
        codec_mse: Mean squared error of the whole decoded pictures, ``(N,)``.
    """

    x: Tensor
    target: Tensor
    condition: Tensor
    codec_mse: Tensor


@dataclass(frozen=True)
class Draws:
    """Crops as numbers.

    Attributes:
        places: Where their pixels lie and how to walk, ``(N, 4)`` int64: first byte in the decoded and in the
            original picture, bytes to the next row and to the next column.
        condition: Condition vectors, ``(N, K)``.
        codec_mse: Mean squared error of the whole decoded pictures, ``(N,)``.
    """

    places: Tensor
    condition: Tensor
    codec_mse: Tensor


@dataclass(frozen=True)
class _Table:
    """The pairs of one codec that are large enough for a crop, a row each."""

    shares: Floats  # cumulated
    starts: Ints  # first bytes of decoded and of original picture
    sizes: Ints  # height, width
    known: npt.NDArray[np.float32]  # condition with everything told but the qp
    qps: Floats  # NaN where unknown
    scale: tuple[float, float]  # qps of the best and of the worst quality
    mses: npt.NDArray[np.float32]


class CropSampler:
    """Random crops of the training part of a store.

    Sample ``i`` of step ``s`` depends on ``(seed, s, i)`` only: that makes resuming exact and lets any
    number of processes share one global batch. The pixels are one flat uint8 tensor, on the GPU if
    they fit there; crops, rotations and flips are one gather with strides.

    Raises:
        ValueError: If the store has no training pair of a codec that is asked for.
    """

    def __init__(self, store: PairStore, config: TrainConfig, device: torch.device) -> None:
        self._store = store
        self._data: DataSettings = config.data
        self._codecs = config.codecs
        self._seed = config.seed
        self._multiple = config.network.multiple
        self._device = device
        self._pixels = torch.from_numpy(np.asarray(store.pixels))
        if device.type == "cuda" and self._pixels.numel() < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._pixels = self._pixels.to(device)
        self._groups = self._group(store.split(validation=False))
        weights = np.array([config.data.weights[codec] for codec in self._groups])
        self._codec_shares = np.cumsum(weights / weights.sum())
        needs_mse = any(phase.loss == "relative_mse" for phase in config.phases)
        pairs = [pair for group in self._groups.values() for pair in group if needs_mse]
        self._mses = {pair.offset: self._mse(pair) for pair in pairs}
        self._tables: dict[int, list[_Table]] = {}

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        return self._pixels.device

    def _group(self, pairs: list[Pair]) -> dict[str, list[Pair]]:
        groups = {codec: [p for p in pairs if p.codec == codec] for codec in self._data.weights}
        for codec, group in groups.items():
            if not group:
                raise ValueError(f"the store has no training pairs of {codec}, which data.weights asks for")
        return groups

    def _mse(self, pair: Pair) -> float:
        original = self._store.original(pair)
        length = 3 * original.height * original.width
        decoded, target = (self._pixels[o : o + length].float() for o in (pair.offset, original.offset))
        return float(decoded.sub_(target).square_().mean()) / 255**2

    def draw(self, step: int, samples: range, crop: int) -> Draws:
        """Where samples ``samples`` of the global batch of ``step`` lie, as crops of ``crop`` x ``crop``.

        Raises:
            ValueError: If no training picture of a codec and of the wanted sources is that large.
        """
        if crop not in self._tables:
            self._tables[crop] = [self._table(codec, crop) for codec in self._groups]
        u = np.random.default_rng((self._seed, step)).random((samples.stop, _NUMBERS))[samples.start :]
        groups = _choose(self._codec_shares, u[:, 0])
        places = np.empty((len(u), 4), np.int64)
        condition = np.empty((len(u), condition_size(self._codecs)), np.float32)
        mse = np.empty(len(u), np.float32)
        for number, table in enumerate(self._tables[crop]):
            here = groups == number
            rows = _choose(table.shares, u[here, 1])
            places[here] = self._places(table, rows, u[here], crop)
            condition[here] = self._condition(table, rows, u[here])
            mse[here] = table.mses[rows]
        return Draws(torch.from_numpy(places), torch.from_numpy(condition), torch.from_numpy(mse))

    def gather(self, draws: Draws, crop: int) -> Batch:
        """The crops that ``draws`` names, on the training device."""
        home = self._pixels.device
        places = draws.places.to(home)
        grid, channels = torch.arange(crop, device=home), torch.arange(3, device=home)
        rows, columns = places[:, 2].view(-1, 1, 1, 1), places[:, 3].view(-1, 1, 1, 1)
        inner = grid.view(1, -1, 1, 1) * rows + grid.view(1, 1, -1, 1) * columns + channels  # (N, S, S, 3)
        x, target = (
            self._pixels[inner + places[:, i].view(-1, 1, 1, 1)].to(self._device).permute(0, 3, 1, 2).float().div_(255)
            for i in (0, 1)
        )  # channels_last in memory
        return Batch(x, target, draws.condition.to(self._device), draws.codec_mse.to(self._device))

    def batch(self, step: int, samples: range, crop: int) -> Batch:
        """Samples ``samples`` of the global batch of ``step``, as crops of ``crop`` x ``crop``."""
        return self.gather(self.draw(step, samples, crop), crop)

    def _table(self, codec: str, crop: int) -> _Table:
        """Pairs that are at least one crop large; sources in their stated proportions."""
        shares, rows = self._data.sources, []
        for pair in self._groups[codec]:
            original = self._store.original(pair)
            if min(original.height, original.width) >= crop and (not shares or original.source in shares):
                rows.append((pair, original))
        if not rows:
            raise ValueError(f"no training picture of {codec} and of the wanted sources is {crop} pixels large")
        count = {source: sum(o.source == source for _, o in rows) for source in {o.source for _, o in rows}}
        weights = np.array([shares[o.source] / count[o.source] if shares else 1.0 for _, o in rows])
        known = [condition_vector(self._codecs, codec, None, pair.chroma).numpy() for pair, _ in rows]
        return _Table(
            np.cumsum(weights / weights.sum()),
            np.array([(pair.offset, original.offset) for pair, original in rows], np.int64),
            np.array([(original.height, original.width) for _, original in rows], np.int64),
            np.array(known, np.float32),
            np.array([np.nan if pair.coded_qp is None else pair.coded_qp for pair, _ in rows]),
            QP_SCALES[codec],
            np.array([self._mses.get(pair.offset, np.nan) for pair, _ in rows], np.float32),
        )

    def _places(self, table: _Table, rows: Ints, u: Floats, crop: int) -> Ints:
        sizes = table.sizes[rows]
        # In multiples, as tiles: a codec's blocks then lie in the cells of the network as they do in a whole picture.
        top, left = (
            (u[:, 2 + axis] * ((sizes[:, axis] - crop) // self._multiple + 1)).astype(np.int64) * self._multiple
            for axis in (0, 1)
        )
        pitch = 3 * sizes[:, 1]
        first = top * pitch + 3 * left
        start, down, right = _orient((u[:, 4] * 8).astype(np.int64), pitch, crop, self._data.augmentation)
        return np.stack([*(table.starts[rows] + (first + start)[:, None]).T, down, right], axis=1)

    def _condition(self, table: _Table, rows: Ints, u: Floats) -> npt.NDArray[np.float32]:
        data, condition = self._data, table.known[rows]
        jitter = np.sqrt(-2 * np.log1p(-u[:, 5])) * np.cos(2 * np.pi * u[:, 6]) * data.qp_jitter  # Box and Muller
        best, worst = table.scale
        severity = np.clip((table.qps[rows] + jitter - best) / (worst - best), 0, 1)
        known = (u[:, 7] >= data.blind + data.no_qp) & ~np.isnan(severity)
        condition[known, -2], condition[known, -1] = severity[known], 1.0
        condition[u[:, 8] < data.no_chroma, -3] = 0.0
        condition[u[:, 7] < data.blind] = condition_vector(self._codecs, None, None).numpy()
        return condition


def _choose(shares: Floats, u: Floats) -> Ints:
    """For each of ``u`` in [0, 1) the first index whose cumulated share is above it."""
    return np.minimum(np.searchsorted(shares, u, side="right"), len(shares) - 1)


def _orient(number: Ints, pitch: Ints, crop: int, augmentation: str) -> tuple[Ints, Ints, Ints]:
    """Start and strides of one of the eight orientations of a crop (0..3 rotate, 4..7 flip too)."""
    number = {"none": number * 0, "rotate": number % 4, "dihedral": number}[augmentation]
    last, three = crop - 1, np.full_like(pitch, 3)
    across, down = 3 * last, pitch * last
    choices = [
        (0 * pitch, pitch, three),
        (across + 0 * pitch, -three, pitch),
        (down + across, -pitch, -three),
        (down, three, -pitch),
        (across + 0 * pitch, pitch, -three),
        (0 * pitch, three, pitch),
        (down, -pitch, three),
        (down + across, -three, -pitch),
    ]
    return tuple(np.choose(number, [choice[i] for choice in choices]) for i in range(3))  # type: ignore[return-value]
