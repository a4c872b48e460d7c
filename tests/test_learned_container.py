"""The file format of learned codecs: what is written is read; whatever else is refused with its position."""

import re
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.errors import BitstreamError
from codec_wrappers.learned import container
from codec_wrappers.learned.container import LearnedFile, RefinerTag, model_of, read_file, write_file

FILE = LearnedFile(
    model="vrae",
    weights=bytes(range(8)),
    quality=200,
    width=300,
    height=7,
    streams=(b"yyyy", b"z"),
    refiners=(RefinerTag("fenm-1", b"8" * 8),),
    check=0x1234,
)
DIGESTS = st.binary(min_size=8, max_size=8)
NAMES = st.from_regex(r"[A-Za-z0-9._:-]{1,40}", fullmatch=True)
FILES = st.builds(
    LearnedFile,
    model=NAMES,
    weights=DIGESTS,
    quality=st.integers(0, 255),
    width=st.integers(1, 2**32 - 1),
    height=st.integers(1, 2**32 - 1),
    streams=st.lists(st.binary(max_size=200), min_size=1, max_size=8).map(tuple),
    fine=st.integers(0, 255),
    gray=st.booleans(),
    bit_depth=st.sampled_from([8, 16]),
    refiners=st.lists(st.builds(RefinerTag, NAMES, DIGESTS), max_size=8).map(tuple),
    check=st.none() | st.integers(0, 2**16 - 1),
)


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def test_bytes_are_those_of_the_documentation():
    body = (
        b"\x8bLIC\x01\x04vrae" + bytes(range(8)) + bytes([200, 128, 4])
        + b"\xac\x02\x07" + b"\x01\x06fenm-1" + b"8" * 8 + b"\x12\x34" + b"\x02\x04\x01" + b"yyyyz"
    )  # fmt: skip

    assert write_file(FILE) == sealed(body)


def test_module_and_document_describe_the_same_bytes():
    document = (Path(__file__).parent.parent / "docs" / "learned_container.md").read_text()
    table = [line.split("|")[1].strip() for line in document.split("## File format")[1].splitlines() if "|" in line]
    fields = [row for row in table if row not in ("bytes", "---")]
    rows = re.findall(r"^(\S.*?)  +\S", (container.__doc__ or "").split("content\n")[1], re.MULTILINE)

    assert [row.replace("all streams", "…") for row in rows if "=" not in row] == fields


@given(FILES)
def test_what_is_written_is_read(file):
    data = write_file(file)

    assert read_file(data) == file
    assert model_of(data[:64]) == file.model


@given(st.data())
def test_every_truncation_is_refused_and_says_where(data):
    whole = write_file(FILE)
    length = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(BitstreamError) as caught:
        read_file(whole[:length])

    assert caught.value.offset == length
    assert "\n" not in str(caught.value)


@given(st.data())
def test_every_changed_byte_is_found(data):
    whole = bytearray(write_file(FILE))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))

    with pytest.raises(BitstreamError):
        read_file(bytes(whole))


@given(st.binary(max_size=120))
def test_no_bytes_raise_anything_else(noise):
    for data in (noise, sealed(b"\x8bLIC\x01" + noise)):
        try:
            read_file(data)
        except BitstreamError:
            continue
        assert data == write_file(read_file(data))


@pytest.mark.parametrize(
    ("body", "message", "offset"),
    [
        (b"\x89PNG\r\n\x1a\n", "no file of a learned codec", 0),
        (b"\x8bLIC\x02", "version 2 is not known", 4),
        (b"\x8bLIC\x01\x00", "0 bytes of the name of the model", 5),
        (b"\x8bLIC\x01\x01 ", "name of the model is none", 5),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x08", "unknown flags 0x8", 17),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x00\x80\x00\x01", "width is no varint", 18),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x00\xff\xff\xff\xff\x1f\x01", "width is no varint", 18),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x00\x01\x00", "picture is empty", 20),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x00\x01\x01\x09", "9 refiners, not 0 to 8", 20),
        (b"\x8bLIC\x01\x01a" + bytes(8) + b"\x01\x80\x00\x01\x01\x00\x00", "0 streams, not 1 to 8", 21),
    ],
)
def test_what_a_header_may_not_say_is_named_with_its_place(body, message, offset):
    with pytest.raises(BitstreamError, match=message) as caught:
        read_file(sealed(body))

    assert caught.value.offset == offset


def test_bytes_after_the_end_are_refused():
    with pytest.raises(BitstreamError, match="1 bytes follow"):
        read_file(write_file(FILE) + b"\0")


@pytest.mark.parametrize(
    "wrong",
    [{"model": "no spaces"}, {"quality": 256}, {"fine": -1}, {"check": 1 << 16}, {"width": 1 << 32}, {"bit_depth": 10},
     {"weights": b"short"}, {"streams": ()}],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_values_without_a_place_in_the_format_are_not_written(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - each message names another value
        write_file(replace(FILE, **wrong))
