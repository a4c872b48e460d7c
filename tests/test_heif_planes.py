import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from codec_wrappers import Metadata
from codec_wrappers.ffmpeg_planes import decode_frames
from codec_wrappers.heif_codecs import AvifCodec, HeicCodec
from codec_wrappers.heif_planes import unrounded_heif
from codec_wrappers.isobmff import parse_items
from codec_wrappers.orientation import with_orientation
from codec_wrappers.vvc_programs import find_ffmpeg

CODECS = {"hevc": HeicCodec, "libdav1d": AvifCodec}


def error(image, original):
    """Mean square, of 255."""
    return np.mean(np.square((image / np.iinfo(image.dtype).max - original / np.iinfo(original.dtype).max) * 255))


def box(name, content):
    return struct.pack(">I", 8 + len(content)) + name + content


def full_box(name, content, version=0):
    return box(name, bytes([version, 0, 0, 0]) + content)


def grid_file(tiles, rows, columns, size, tile_size, derived=b"grid"):
    """A HEIC file whose picture is a grid, as telephones write it; the colours are told by the bitstreams alone.

    Sizes are height and width; ``derived`` may be ``iden``, which has no data.
    """
    items = [(1, derived, bytes([0, 0, rows - 1, columns - 1]) + struct.pack(">HH", *size[::-1]))]
    items += [(number, b"hvc1", tile.tiles[0]) for number, tile in enumerate(tiles, 2)]
    properties = [
        full_box(b"ispe", struct.pack(">II", *size[::-1])),
        full_box(b"ispe", struct.pack(">II", *tile_size[::-1])),
        box(b"hvcC", tiles[0].configuration),
    ]
    owned = b"".join(
        struct.pack(">HB", number, len(held)) + bytes(held)
        for number, held in [(1, [1]), *((n, [2, 0x83]) for n in range(2, len(tiles) + 2))]
    )
    references = struct.pack(">HH", 1, len(tiles)) + b"".join(struct.pack(">H", n) for n in range(2, len(tiles) + 2))
    entries = b"".join(full_box(b"infe", struct.pack(">HH4sx", n, 0, kind), 2) for n, kind, _ in items)
    head = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")

    def meta(offset):
        places = b""
        stored = [item for item in items if item[1] != b"iden"]
        for number, _, data in stored:
            places += struct.pack(">HHHII", number, 0, 1, offset, len(data))
            offset += len(data)
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + full_box(b"pitm", struct.pack(">H", 1))
            + full_box(b"iinf", struct.pack(">H", len(items)) + entries)
            + full_box(b"iref", box(b"dimg", references))
            + box(
                b"iprp",
                box(b"ipco", b"".join(properties)) + full_box(b"ipma", struct.pack(">I", len(items)) + owned),
            )
            + full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(stored)) + places),
        )

    return (
        head
        + meta(len(head) + len(meta(0)) + 8)
        + box(b"mdat", b"".join(data for _, kind, data in items if kind != b"iden"))
    )


@pytest.fixture(scope="module")
def tiles(photograph):
    """2 rows of 3 tiles of 64 x 64 pixels."""
    parts = [np.ascontiguousarray(photograph[y : y + 64, x : x + 64]) for y in (0, 64) for x in (0, 64, 128)]
    return [parse_items(HeicCodec(preset="fast").encode(part, 80)) for part in parts]


@pytest.fixture(scope="module")
def grid(tiles):
    return grid_file(tiles, 2, 3, (100, 151), (64, 64))


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize(("chroma", "least"), [("420", 0.5), ("422", 0.2), ("444", 0.02)])
def test_the_unrounded_picture_of_a_heic_file_is_nearer_to_the_original(photograph, chroma, least, odd):
    original = np.ascontiguousarray(photograph[: 256 - odd, : 256 - odd])
    decoded = HeicCodec(chroma=chroma).decode(HeicCodec(chroma=chroma).encode(original, 80))

    unrounded = decoded.unrounded()

    assert (unrounded.shape, unrounded.dtype) == (original.shape, np.uint16)
    assert error(unrounded, original) < error(decoded.image, original) - least


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize(("chroma", "most"), [("420", 2.0), ("422", 1.0), ("444", 0.2)])
def test_the_unrounded_picture_of_an_avif_file_is_that_which_is_shown(photograph, chroma, most, odd):
    # Not always nearer to the original: libavif's encoder takes half a step from chroma, which its decoder gives back.
    original = np.ascontiguousarray(photograph[: 256 - odd, : 256 - odd])
    decoded = AvifCodec(chroma=chroma).decode(AvifCodec(chroma=chroma).encode(original, 80))

    unrounded = decoded.unrounded()

    assert (unrounded.shape, unrounded.dtype) == (original.shape, np.uint16)
    assert 0.05 < error(unrounded, decoded.image) < most
    np.testing.assert_allclose(unrounded.mean((0, 1)) / 257, decoded.image.mean((0, 1)), atol=0.03)


def test_deep_pictures_have_their_chroma_interpolated_too(photograph):
    deep = photograph[:128, :128].astype(np.uint16) * 257
    decoded = HeicCodec().decode(HeicCodec().encode(deep, 80))

    assert decoded.image.dtype == np.uint16
    assert error(decoded.unrounded(), deep) < error(decoded.image, deep) - 0.2


@pytest.mark.parametrize("codec_class", CODECS.values())
def test_the_unrounded_picture_is_turned_as_the_image_and_keeps_its_alpha_channel(picture, codec_class):
    image = np.dstack([picture, np.arange(picture.shape[1], dtype=np.uint8) * np.ones((len(picture), 1), np.uint8)])
    decoded = codec_class().decode(codec_class().encode(image, 80, metadata=Metadata(with_orientation(None, 6))))

    unrounded = decoded.unrounded()

    assert error(unrounded[..., :3], picture) < error(decoded.image[..., :3], picture)
    np.testing.assert_array_equal(unrounded[..., 3], decoded.image[..., 3].astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("matrix", "full_range", "pixels"),
    [
        ("bt709", "tv", "yuv420p"),
        ("bt709", "pc", "yuv422p"),
        ("smpte170m", "tv", "yuv444p"),
        ("bt2020nc", "tv", "yuv420p10le"),
        ("bt2020nc", "pc", "yuv420p12le"),
    ],
)
def test_avif_files_of_other_encoders_are_read_by_their_own_matrix_and_range(
    photograph, tmp_path, matrix, full_range, pixels
):
    original = np.ascontiguousarray(photograph[:160, :200])
    scale = f"scale=out_color_matrix={matrix.removesuffix('nc')}:out_range={full_range}:sws_flags=lanczos+accurate_rnd"
    command = (
        f"-v error -f rawvideo -pix_fmt rgb24 -s 200x160 -i - -frames:v 1 -vf {scale}+full_chroma_int,format={pixels}"
        f" -colorspace {matrix} -color_range {full_range} -c:v libaom-av1 -crf 20 -cpu-used 8 -still-picture 1"
    )
    subprocess.run(
        [find_ffmpeg(), *command.split(), tmp_path / "a.avif"],
        input=original.tobytes(),
        check=True,
        capture_output=True,
    )

    decoded = AvifCodec().decode((tmp_path / "a.avif").read_bytes())

    assert error(decoded.unrounded(), original) < error(decoded.image, original) - 0.04


def test_a_grid_of_tiles_is_joined(photograph, grid):
    decoded = HeicCodec().decode(grid)
    original = photograph[:100, :151]

    assert decoded.image.shape == original.shape
    assert error(decoded.unrounded(), original) < error(decoded.image, original) - 0.3


def test_planes_that_are_not_those_of_the_picture_are_not_taken(picture):
    for decoder, codec_class in CODECS.items():
        bitstream = codec_class().encode(picture, 80)
        image, file = codec_class().decode(bitstream).image, parse_items(bitstream)

        assert unrounded_heif(decoder, file, image) is not None
        assert unrounded_heif(decoder, file, np.roll(image, 1, axis=0)) is None
        assert unrounded_heif(decoder, file, np.pad(image, ((0, 1), (0, 0), (0, 0)))) is None
        assert unrounded_heif(decoder, replace(file, matrix=1), image) is None
        assert unrounded_heif(decoder, replace(file, full_range=False), image) is None
        assert unrounded_heif(decoder, replace(file, matrix=0), image) is None
        assert unrounded_heif("hevc" if decoder == "libdav1d" else "libdav1d", file, image) is None
        assert codec_class().decode(codec_class().encode(picture[..., 0], 80)).unrounded() is None


def test_a_coded_picture_that_is_larger_than_the_file_says_is_not_decoded(picture):
    for decoder, codec_class in CODECS.items():
        bitstream = codec_class().encode(picture, 80)
        image, file = codec_class().decode(bitstream).image, parse_items(bitstream)

        assert unrounded_heif(decoder, file, image) is not None
        assert unrounded_heif(decoder, replace(file, tile_size=(8, 8)), image) is None


def test_an_unknown_decoder_gives_no_frames():
    assert decode_frames("no such decoder", [b""], max_pixels=64) is None


def test_a_grid_that_is_not_whole_has_no_unrounded_form(tiles):
    whole = parse_items(grid_file(tiles, 2, 3, (100, 151), (64, 64)))
    assert (len(whole.tiles), whole.columns, whole.tile_size) == (6, 3, (64, 64))

    too_few = grid_file(tiles[:5], 2, 3, (100, 151), (64, 64))
    more_than_shown = grid_file(tiles, 2, 3, (64, 151), (64, 64))
    not_covered = grid_file(tiles, 2, 3, (129, 151), (64, 64))
    for file in (too_few, more_than_shown, not_covered):
        assert (len(parse_items(file).tiles), parse_items(file).columns) == (1, 0)
    assert HeicCodec().decode(more_than_shown).unrounded() is None


def test_tiles_that_are_one_and_the_same_item_many_times_are_not_multiplied(tiles):
    row = grid_file([tiles[0]] + [replace(tiles[0], tiles=(b"",))] * 99, 1, 100, (64, 6400), (64, 64))
    shared = row.replace(struct.pack(">100H", *range(2, 102)), struct.pack(">100H", *[2] * 100))

    assert parse_items(row).columns == 100
    assert parse_items(shared).columns == 0


def test_a_picture_derived_in_another_way_is_shown_without_an_unrounded_form(tiles):
    file = grid_file(tiles[:1], 1, 1, (64, 64), (64, 64), derived=b"iden")

    decoded = HeicCodec().decode(file)

    assert decoded.image.shape == (64, 64, 3)
    assert decoded.unrounded() is None
