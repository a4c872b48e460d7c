import struct
import subprocess

import numpy as np
import pytest

from codec_wrappers import Metadata
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


def grid_file(tiles, rows, columns, size, tile_size):
    """A HEIC file whose picture is a grid, as telephones write it; the colours are told by the bitstreams alone."""
    items = [(1, b"grid", bytes([0, 0, rows - 1, columns - 1]) + struct.pack(">HH", *size[::-1]))]
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
        for number, _, data in items:
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
            + full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)) + places),
        )

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", b"".join(data for _, _, data in items))


@pytest.fixture(scope="module")
def grid(photograph):
    """2 x 2 tiles of 128 x 128 pixels, of which the picture is 200 x 230."""
    parts = [np.ascontiguousarray(photograph[y : y + 128, x : x + 128]) for y in (0, 128) for x in (0, 128)]
    codec = HeicCodec(preset="fast")
    return grid_file([parse_items(codec.encode(part, 80)) for part in parts], 2, 2, (200, 230), (128, 128))


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
    original = photograph[:200, :230]

    assert decoded.image.shape == original.shape
    assert error(decoded.unrounded(), original) < error(decoded.image, original) - 0.3


def test_planes_that_are_not_those_of_the_picture_are_not_taken(picture):
    for decoder, codec_class in CODECS.items():
        bitstream = codec_class().encode(picture, 80)
        image, file = codec_class().decode(bitstream).image, parse_items(bitstream)

        assert unrounded_heif(decoder, file, image) is not None
        assert unrounded_heif(decoder, file, np.roll(image, 1, axis=0)) is None
        assert unrounded_heif(decoder, file, np.pad(image, ((0, 1), (0, 0), (0, 0)))) is None
        assert unrounded_heif("hevc" if decoder == "libdav1d" else "libdav1d", file, image) is None
        assert codec_class().decode(codec_class().encode(picture[..., 0], 80)).unrounded() is None


def test_a_grid_that_is_not_whole_has_no_unrounded_form(grid):
    whole = parse_items(grid)
    assert (len(whole.tiles), whole.columns) == (4, 2)
    one_row_more = grid.replace(bytes([0, 0, 1, 1]) + struct.pack(">HH", 230, 200), b"\0\0\2\1\0\xe6\0\xc8")
    assert parse_items(one_row_more).columns == 0
    shared = grid.replace(struct.pack(">6H", 1, 4, 2, 3, 4, 5), struct.pack(">6H", 1, 4, 2, 2, 2, 2))
    assert len(parse_items(shared).tiles) in (1, 4)
    image = HeicCodec().decode(grid).image
    assert unrounded_heif("hevc", parse_items(shared), image) is None
    assert unrounded_heif("hevc", parse_items(one_row_more), image) is None
