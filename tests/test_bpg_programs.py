"""The libbpg backend, against stand-ins that record how they were called."""

from __future__ import annotations

import pickle
import shlex
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from codec_wrappers.base import Image, Metadata
from codec_wrappers.bpg import BpgCodec
from codec_wrappers.bpg_container import read_file, read_header
from codec_wrappers.errors import BitstreamError, CodecUnavailableError, ToolError

DATA = Path(__file__).parent / "data" / "bpg"


@pytest.fixture
def recorded(fake_tool, tmp_path):
    """Stand-ins for bpgenc and bpgdec: log their arguments, keep their input, answer with a vector."""

    def install(name: str = "420") -> Path:
        log = shlex.quote(str(tmp_path / "log"))
        kept = shlex.quote(str(tmp_path))
        source = shlex.quote(str(DATA / name))
        fake_tool(
            "bpgenc", f'echo "bpgenc $*" >>{log}; pwd >>{log}; cp in.png {kept}/kept.png; cp {source}.bpg out.bpg'
        )
        fake_tool(
            "bpgdec", f'echo "bpgdec $*" >>{log}; pwd >>{log}; cp in.bpg {kept}/kept.bpg; cp {source}.png out.png'
        )
        return tmp_path / "log"

    return install


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "-q 31 -m 9 -b 8 -f 420 -c ycbcr -o out.bpg in.png"),
        ({"preset": "fast", "chroma": "444", "bit_depth": 10}, "-q 31 -m 1 -b 10 -f 444 -c ycbcr -o out.bpg in.png"),
        ({"chroma_siting": "left"}, "-q 31 -m 9 -b 8 -f 420_video -c ycbcr -o out.bpg in.png"),
        (
            {"chroma": "422", "chroma_siting": "left", "color_space": "bt709", "limited_range": True},
            "-q 31 -m 9 -b 8 -f 422_video -c ycbcr_bt709 -limitedrange -o out.bpg in.png",
        ),
        ({"lossless": True}, "-q 31 -m 9 -b 8 -f 444 -c rgb -lossless -o out.bpg in.png"),
    ],
)
def test_bpgenc_is_called_with_the_options_and_the_picture(recorded, picture, tmp_path, options, expected):
    log = recorded()

    data = BpgCodec(backend="libbpg", **options).encode(picture, 31)

    command, folder = log.read_text().splitlines()
    assert command == f"bpgenc {expected}"
    assert not Path(folder).exists()
    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "kept.png").read_bytes()), picture)
    assert read_file(data) == read_file((DATA / "420.bpg").read_bytes())


def test_gray_and_premultiplied_pictures_have_their_own_options(recorded, picture):
    log = recorded()
    codec = BpgCodec(backend="libbpg", premultiplied=True)

    codec.encode(picture[..., 0], 20)
    codec.encode(np.dstack([picture, picture[..., 0]]), 20)

    commands = [line for line in log.read_text().splitlines() if line.startswith("bpgenc")]
    assert commands[0] == "bpgenc -q 20 -m 9 -b 8 -o out.bpg in.png"
    assert commands[1] == "bpgenc -q 20 -m 9 -b 8 -f 420 -c ycbcr -premul -o out.bpg in.png"


def test_16_bit_pictures_reach_bpgenc_with_all_bits(recorded, tmp_path, picture):
    recorded()
    deep = picture.astype(np.uint16) * 255 + 7

    BpgCodec(backend="libbpg", bit_depth=12).encode(deep, 31)

    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "kept.png").read_bytes()), deep)


def test_metadata_are_added_to_what_bpgenc_writes(recorded, picture):
    recorded()
    metadata = Metadata(icc=b"profile")

    header, _ = read_header(BpgCodec(backend="libbpg").encode(picture, 31, metadata=metadata))

    assert header.metadata == metadata


@pytest.mark.parametrize("name", ["420", "rgba_444", "gray", "gray_alpha"])
def test_bpgdec_s_picture_is_returned_in_the_form_of_the_other_backend(recorded, tmp_path, name):
    log = recorded(name)
    data = (DATA / f"{name}.bpg").read_bytes()

    decoded = BpgCodec(backend="libbpg").decode(data)

    expected = BpgCodec().decode(data)
    np.testing.assert_array_equal(decoded.image, expected.image)
    assert decoded.info == expected.info
    command, folder = log.read_text().splitlines()
    assert command == "bpgdec -b 8 -o out.png in.bpg"
    assert not Path(folder).exists()
    assert (tmp_path / "kept.bpg").read_bytes() == data


def test_a_file_that_bpgdec_rejects_is_a_bad_bitstream(fake_tool):
    fake_tool("bpgdec", "echo 'Could not decode image' >&2; exit 1")

    with pytest.raises(BitstreamError, match="Could not decode image"):
        BpgCodec(backend="libbpg").decode((DATA / "420.bpg").read_bytes())


def test_a_picture_of_another_size_from_bpgdec_is_refused(recorded):
    recorded("3x5")

    with pytest.raises(Exception, match="unexpected picture"):
        BpgCodec(backend="libbpg").decode((DATA / "420.bpg").read_bytes())


def test_failing_hanging_and_silent_programs_are_tool_errors(fake_tool, picture: Image):
    codec = BpgCodec(backend="libbpg", timeout_s=0.3)
    fake_tool("bpgenc", "echo 'Unsupported encoder' >&2; exit 1")
    with pytest.raises(ToolError, match="Unsupported encoder"):
        codec.encode(picture, 30)
    fake_tool("bpgenc", "sleep 60")
    with pytest.raises(ToolError, match=r"longer than 0\.3 s"):
        codec.encode(picture, 30)
    fake_tool("bpgenc", "exit 0")
    with pytest.raises(ToolError, match="wrote no output"):
        codec.encode(picture, 30)


def test_missing_programs_are_named(monkeypatch, picture):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))

    with pytest.raises(CodecUnavailableError, match="bpgenc is not on PATH"):
        BpgCodec(backend="libbpg").encode(picture, 30)
    pyav, libbpg = BpgCodec.availability()
    assert pyav.available
    assert "x265 " in pyav.detail
    assert not libbpg.available
    assert "bpgenc and bpgdec" in libbpg.detail


def test_errors_survive_the_way_home_from_another_process():
    for error in (ToolError("no paper", command=["bpgenc"], returncode=3), BitstreamError("too short", offset=7)):
        twin = pickle.loads(pickle.dumps(error))

        assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
