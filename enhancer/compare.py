"""A before/after sheet: the picture in small, and the places that changed most, enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from codec_wrappers import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

CELL = 320
"""Side of a cell of the sheet, in pixels; a crop fills it by a whole number of times its size."""

CROP = 80
GAP = 8
CAPTION = 22
_BACKGROUND, _INK, _FRAME = (255, 255, 255), (0, 0, 0), (255, 64, 0)

Corner = tuple[int, int]


def comparison_sheet(
    original: Image | None,
    decoded: Image,
    enhanced: Image,
    *,
    captions: Sequence[str] = ("original", "decoded", "enhanced"),
    crops: int = 3,
) -> Image:
    """Draws pictures side by side: one column each, small on top and enlarged crops below.

    The crops are those that the enhancement changed most; frames in the small pictures say where they
    lie. Alpha is left out, 16 bits are shown with 8, gray as gray.

    Args:
        original: The picture before the codec, if it is known; it gets the first column.
        decoded: The picture before enhancement.
        enhanced: The picture after it.
        captions: What stands above original, decoded and enhanced.
        crops: Number of crops; fewer if they would overlap.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: If the pictures differ in size.
    """
    pictures = [_displayed(image) for image in (original, decoded, enhanced) if image is not None]
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"the pictures differ in size: {[picture.shape[:2] for picture in pictures]}")
    size = min(CROP, *pictures[0].shape[:2])
    corners = most_changed(pictures[-2], pictures[-1], size, crops)
    columns = [
        [_overview(picture, corners, size), *(_enlarged(picture, c, size) for c in corners)] for picture in pictures
    ]
    return np.asarray(_arrange(columns, list(captions)[-len(columns) :]))


def most_changed(before: Image, after: Image, size: int, count: int) -> list[Corner]:
    """Upper left corners (row, column) of the squares with the largest mean change, without overlap."""
    change = np.abs(after.astype(np.int16) - before).sum(axis=2)
    table = np.pad(np.cumsum(np.cumsum(change, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
    step = max(size // 4, 1)
    rows = np.arange(0, change.shape[0] - size + 1, step)[:, None]
    columns = np.arange(0, change.shape[1] - size + 1, step)[None]
    sums = (
        table[rows + size, columns + size]
        - table[rows, columns + size]
        - table[rows + size, columns]
        + table[rows, columns]
    )
    chosen: list[Corner] = []
    while len(chosen) < count and sums.max() >= 0:
        i, j = np.unravel_index(sums.argmax(), sums.shape)
        row, column = int(rows[i, 0]), int(columns[0, j])
        chosen.append((row, column))
        sums[(abs(rows - row) < size) & (abs(columns - column) < size)] = -1
    return chosen


def _displayed(image: Image) -> Image:
    """uint8 RGB for the screen."""
    colours = np.stack([image] * 3, axis=2) if image.ndim == 2 else image[..., :3]
    return colours if colours.dtype == np.uint8 else np.rint(colours / 257).astype(np.uint8)


def _overview(picture: Image, corners: list[Corner], size: int) -> PillowImage:
    from PIL import Image as PillowModule
    from PIL import ImageDraw

    height, width = picture.shape[:2]
    scale = min(CELL / width, CELL / height)
    small = PillowModule.fromarray(picture).resize((max(round(width * scale), 1), max(round(height * scale), 1)))
    draw = ImageDraw.Draw(small)
    for row, column in corners:
        left, top, side = column * scale, row * scale, max(size * scale - 1, 0)
        draw.rectangle([left, top, left + side, top + side], outline=_FRAME)
    return small


def _enlarged(picture: Image, corner: Corner, size: int) -> PillowImage:
    """The crop with every pixel drawn as a square."""
    from PIL import Image as PillowModule

    row, column = corner
    crop = PillowModule.fromarray(np.ascontiguousarray(picture[row : row + size, column : column + size]))
    side = size * max(CELL // size, 1)
    return crop.resize((side, side), PillowModule.Resampling.NEAREST)


def _arrange(columns: list[list[PillowImage]], captions: list[str]) -> PillowImage:
    """Puts the columns beside each other, with a caption above each."""
    from PIL import Image as PillowModule
    from PIL import ImageDraw, ImageFont

    width = len(columns) * (CELL + GAP) + GAP
    height = CAPTION + sum(cell.height + GAP for cell in columns[0]) + GAP
    sheet = PillowModule.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (cells, caption) in enumerate(zip(columns, captions, strict=True)):
        left, top = GAP + index * (CELL + GAP), CAPTION + GAP
        draw.text((left, GAP), caption, fill=_INK, font=ImageFont.load_default(14))
        for cell in cells:
            sheet.paste(cell, (left, top))
            top += cell.height + GAP
    return sheet
