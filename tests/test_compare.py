from __future__ import annotations

import numpy as np
import pytest

from enhancer.compare import CELL, comparison_sheet, most_changed


def test_the_crops_are_where_most_changed():
    before = np.full((100, 200, 3), 100, np.uint8)
    after = before.copy()
    after[40:60, 20:40] = 130
    after[0:20, 160:180] = 120

    assert most_changed(before, after, size=20, count=2) == [(40, 20), (0, 160)]


def test_crops_do_not_overlap_and_run_out():
    before = np.zeros((40, 60, 3), np.uint8)

    corners = most_changed(before, before + 1, size=20, count=10)

    assert len(set(corners)) == len(corners) == 6
    assert most_changed(before, before, size=40, count=3) == [(0, 0)]


def test_every_pixel_of_a_crop_becomes_a_square(picture):
    sheet = comparison_sheet(None, picture, 255 - picture, crops=1)

    (row, column), side = most_changed(picture, 255 - picture, 80, 1)[0], CELL // 80
    crops = sheet[-8 - CELL : -8, 8 : 8 + CELL], sheet[-8 - CELL : -8, 16 + CELL : 16 + 2 * CELL]
    expected = picture[row : row + 80, column : column + 80].repeat(side, 0).repeat(side, 1)
    assert np.array_equal(crops[0], expected)
    assert np.array_equal(crops[1], 255 - expected)


def test_an_original_gets_a_column_of_its_own(picture):
    two = comparison_sheet(None, picture, picture)
    three = comparison_sheet(picture, picture, picture, captions=("a", "b", "c"))

    assert three.shape[1] - two.shape[1] == CELL + 8
    assert three.dtype == np.uint8


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5), (300, 8, 3), (8, 3000, 4), (100, 100)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_picture_can_be_compared(shape, dtype):
    image = np.zeros(shape, dtype)

    assert comparison_sheet(image, image, image).shape[2] == 3


def test_sixteen_bits_are_shown_with_eight():
    dark, light = np.full((4, 4), 257 * 10, np.uint16), np.full((4, 4), 65535, np.uint16)

    sheet = comparison_sheet(None, dark, light)

    assert (sheet[-20, 20], sheet[-20, 20 + CELL + 8]) == (pytest.approx([10] * 3), pytest.approx([255] * 3))


def test_pictures_of_different_size_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        comparison_sheet(None, np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
