"""Runs a network over a picture in tiles, with the same result as over the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One tile on one axis: pixels ``start..stop`` are written, ``first..last`` are read (ends exclusive)."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def window(self) -> slice:
        return slice(self.first, self.last)

    @property
    def written(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        """The written pixels, counted from the start of the window."""
        return slice(self.start - self.first, self.stop - self.first)


def tile_spans(length: int, *, tile_size: int, overlap: int, halo: int, fixed_shape: bool) -> list[Span]:
    """Cuts an axis of ``length`` pixels into tiles; windows never reach beyond the picture.

    With ``fixed_shape`` all windows are ``tile_size + 2 * halo`` long (or the whole axis, if that is
    shorter): at the borders they move inwards, so that a pixel has at least the halo as context.
    """
    spans = []
    size = min(tile_size + 2 * halo, length)
    for start in range(0, max(length - overlap, 1), tile_size - overlap):
        stop = min(start + tile_size, length)
        first, last = max(start - halo, 0), min(stop + halo, length)
        if fixed_shape:
            first = min(first, length - size)
            last = first + size
        spans.append(Span(start, stop, first, last))
    return spans


def run_tiled(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tile_size: int | tuple[int, int],
    overlap: int = 0,
    halo: int,
    multiple: int = 1,
    fixed_shape: bool = False,
    batch_size: int = 1,
) -> Tensor:
    """Returns ``network(x)``, computed tile by tile in bounded memory.

    Windows are clamped at the border of the picture: the network sees (and pads) the true border and
    nothing beyond it. The result equals that of the whole picture if ``halo`` is at least the
    radius of the network's receptive field and the network commutes with shifts by ``multiple``.

    Args:
        network: Keeps height and width; may change dtype. A batch that holds ``k`` windows of
            ``(N, C, H, W)`` has ``k * N`` entries, window by window.
        x: ``(N, C, H, W)``; H and W are multiples of ``multiple``.
        tile_size: Height and width of what a tile writes, in pixels; one number for a square.
        overlap: Pixels that two neighbouring tiles both write; they are blended linearly, which
            hides seams of a halo that is too small. Needs a floating-point result.
        halo: Context in pixels that is read around a tile and dropped afterwards.
        multiple: All windows begin and end at multiples of this, in coordinates of the picture.
        fixed_shape: Gives all windows one shape, for backends that compile for a shape.
        batch_size: Windows of equal shape that run at once.

    Raises:
        ValueError: If the sizes do not fit together.
    """
    sides = (tile_size, tile_size) if isinstance(tile_size, int) else tile_size
    _check(x, sides, overlap, halo, multiple, batch_size)
    rows, columns = (
        tile_spans(length, tile_size=side, overlap=overlap, halo=halo, fixed_shape=fixed_shape)
        for length, side in zip(x.shape[-2:], sides, strict=True)
    )
    output = x.new_empty(0)  # allocated when the first result tells the dtype
    for batch in _batches(rows, columns, batch_size):
        windows = [x[..., row.window, column.window] for row, column in batch]
        result = network(windows[0] if len(batch) == 1 else torch.cat(windows))
        if not len(output):
            output = _allocate(x, result)
            if overlap:
                if not output.is_floating_point():
                    raise ValueError(f"overlapping tiles need a floating-point result, got {output.dtype}")
                output.zero_()
        for (row, column), part in zip(batch, torch.split(result, len(x)), strict=True):
            kept = part[..., row.kept, column.kept]
            target = output[..., row.written, column.written]
            if overlap:
                weight_y, weight_x = _blend(row, rows).to(kept), _blend(column, columns).to(kept)
                target += kept * weight_y[:, None] * weight_x
            else:
                target.copy_(kept)
    return output


def _allocate(x: Tensor, result: Tensor) -> Tensor:
    """Room for the result of the whole picture, in the memory layout of ``x``.

    Pixels of an array lie together, not the planes of a colour: it gets its result without another copy.
    """
    interleaved = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty(
        (len(x), *result.shape[1:-2], *x.shape[-2:]),
        dtype=result.dtype,
        device=result.device,
        memory_format=torch.channels_last if interleaved else torch.contiguous_format,
    )


def _check(x: Tensor, sides: tuple[int, int], overlap: int, halo: int, multiple: int, batch_size: int) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
    if min(sides) < 1 or halo < 0 or batch_size < 1 or multiple < 1:
        raise ValueError(
            f"tile_size, multiple and batch_size must be at least 1 and halo at least 0, "
            f"got {sides}, {multiple}, {batch_size} and {halo}"
        )
    if not 0 <= overlap < min(sides):
        raise ValueError(f"overlap must be in 0..{min(sides) - 1}, below tile_size, got {overlap}")
    lengths = {"height": x.shape[-2], "width": x.shape[-1], "overlap": overlap, "halo": halo}
    for name, length in {**lengths, "tile_size": sides[0], "tile_size ": sides[1]}.items():
        if length % multiple:
            raise ValueError(f"{name.strip()} must be a multiple of {multiple}, got {length}")


def _batches(rows: list[Span], columns: list[Span], batch_size: int) -> Iterator[list[tuple[Span, Span]]]:
    """Tiles in reading order, up to ``batch_size`` neighbours of equal window shape together."""

    def shape(tile: tuple[Span, Span]) -> tuple[int, int]:
        return tile[0].last - tile[0].first, tile[1].last - tile[1].first

    for _, group in groupby(product(rows, columns), key=shape):
        tiles = list(group)
        yield from (tiles[i : i + batch_size] for i in range(0, len(tiles), batch_size))


def _blend(span: Span, spans: list[Span]) -> Tensor:
    """Weights of one tile on its axis: linear ramps, and over all tiles they add up to one."""
    pixels = torch.arange(span.start, span.stop, dtype=torch.float64)

    def ramp(other: Span) -> Tensor:
        return torch.minimum(pixels - other.start + 1, other.stop - pixels).clamp(min=0)

    return ramp(span) / torch.stack([ramp(other) for other in spans]).sum(0)
