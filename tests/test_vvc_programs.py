"""Command lines of the VVC programs, against stand-ins, and what happens when they fail."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from codec_wrappers import vvc_programs
from codec_wrappers.errors import BitstreamError, CodecError, CodecUnavailableError, ToolError
from codec_wrappers.vvc import VvcCodec
from codec_wrappers.vvc_decoder import decode_planes

FAST = VvcCodec(preset="faster")

# Notes its arguments and the size of its input, then hands over a prepared file.
RECORD = 'printf "%s\\n" "$@" > {notes}; '
VVENCAPP = RECORD + 'wc -c < "$2" >> {notes}; while [ "$1" != -o ]; do shift; done; cp {answer} "$2"'
VVDECAPP = RECORD + 'cmp "$2" {expected} || exit 1; cp {answer} "$4"'
VTM_ENCODER = (
    RECORD
    + """
for option; do case $option in
    --InputFile=*) wc -c < "${{option#*=}}" >> {notes} ;;
    --BitstreamFile=*) cp {answer} "${{option#*=}}" ;;
esac; done; echo "VTM software: a lot of words on standard output" """
)


@pytest.fixture(scope="module")
def stream(photograph):
    return FAST.encode(photograph[100:148, 180:244], 35)


@pytest.fixture
def temp_folder(tmp_path, monkeypatch):
    """Where temporary files go; must be empty in the end."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def answer(tmp_path, stream):
    path = tmp_path / "answer.266"
    path.write_bytes(stream)
    return path


def test_vvencapp_is_called_as_its_manual_says(photograph, stream, answer, fake_tool, tmp_path, temp_folder):
    notes = tmp_path / "notes"
    fake_tool("vvencapp", VVENCAPP.format(notes=notes, answer=answer))
    image = photograph[100:148, 180:244]

    result = VvcCodec(preset="tuned", backend="vvenc", lambda_scale=1.1).encode(image, 33)

    assert result == stream
    *arguments, input_bytes = notes.read_text().splitlines()
    assert int(input_bytes) == 64 * 48 * 3 // 2 * 2
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    expected = {"-s": "64x48", "-c": "yuv420_10", "--preset": "medium", "-q": "33", "--qpa": "0", "-ip": "1", "-t": "1"}
    assert expected.items() <= options.items()
    additional = dict(pair.split("=") for pair in options["--additional"].split(" "))
    assert {
        "CbQpOffset": "-6",
        "CrQpOffset": "-6",
        "LambdaModifierI": "1.1",
        "Range": "full",
    }.items() <= additional.items()
    assert "CbQpOffsetDualTree" not in additional  # it would add up with CbQpOffset


@pytest.mark.parametrize("name", ["EncoderApp", "EncoderAppStatic"])
def test_vtm_is_called_with_the_user_s_configuration(
    photograph, stream, answer, fake_tool, tmp_path, temp_folder, name
):
    notes, config = tmp_path / "notes", tmp_path / "encoder_intra_vtm.cfg"
    fake_tool(name, VTM_ENCODER.format(notes=notes, answer=answer))

    result = VvcCodec(backend="vtm", vtm_config=str(config)).encode(photograph[100:148, 180:244], 37)

    assert result == stream
    *arguments, input_bytes = notes.read_text().splitlines()
    assert int(input_bytes) == 64 * 48 * 3 // 2 * 2
    assert arguments[:2] == ["-c", str(config)]
    wanted = ["QP=37", "SourceWidth=64", "SourceHeight=48", "InputBitDepth=10", "FramesToBeEncoded=1"]
    wanted += ["TemporalSubsampleRatio=1", "MatrixCoefficients=5", "VideoFullRange=1", "ChromaSampleLocType=1"]
    assert {f"--{option}" for option in wanted} <= set(arguments)
    assert not any("QpOffset" in argument or "LambdaModifier" in argument for argument in arguments)


@pytest.mark.parametrize(
    ("backend", "name"), [("vvenc", "vvdecapp"), ("vtm", "DecoderApp"), ("vtm", "DecoderAppStatic")]
)
def test_decoder_programs_give_the_same_picture(stream, answer, fake_tool, tmp_path, temp_folder, backend, name):
    raw, notes = tmp_path / "raw.yuv", tmp_path / "notes"
    raw.write_bytes(b"".join(p.astype("<u2").tobytes() for p in decode_planes(stream).planes))
    fake_tool(name, VVDECAPP.format(notes=notes, expected=answer, answer=raw))

    decoded = VvcCodec(backend=backend).decode(stream)

    ours = FAST.decode(stream)
    assert decoded.info == ours.info
    np.testing.assert_array_equal(decoded.image, ours.image)
    extra = {"vvenc": ["-t", "1", "-v", "0"], "vtm": ["-d", "0"]}[backend]
    assert notes.read_text().splitlines()[4:] == extra


def test_a_decoder_that_writes_too_little_is_an_error(stream, answer, fake_tool, tmp_path, temp_folder):
    raw = tmp_path / "raw.yuv"
    raw.write_bytes(bytes(100))
    fake_tool("vvdecapp", f'cp {raw} "$4"')

    with pytest.raises(BitstreamError, match="wrote 100 bytes instead of 9216"):
        VvcCodec(backend="vvenc").decode(stream)


def test_the_program_s_own_words_reach_the_user(picture, fake_tool, temp_folder):
    fake_tool("vvencapp", "echo 'vvencapp [error]: no such preset' >&2; exit 3")

    with pytest.raises(ToolError, match=r"status 3: vvencapp .error.: no such preset") as caught:
        VvcCodec(backend="vvenc").encode(picture, 30)

    assert caught.value.returncode == 3


@pytest.mark.parametrize("script", ["exit 0", 'while [ "$1" != -o ]; do shift; done; : > "$2"'], ids=["none", "empty"])
def test_success_without_output_is_an_error(picture, fake_tool, temp_folder, script):
    fake_tool("vvencapp", script)

    with pytest.raises(ToolError, match="vvencapp wrote no output"):
        VvcCodec(backend="vvenc").encode(picture, 30)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not just waiting for its parent to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_hanging_program_is_ended_with_its_children(picture, fake_tool, tmp_path, temp_folder):
    pid = tmp_path / "pid"
    fake_tool("vvencapp", f"sleep 60 & echo $! > {pid}; wait")
    start = time.monotonic()

    with pytest.raises(ToolError, match=r"vvencapp took longer than 2 s"):
        VvcCodec(backend="vvenc", timeout_s=2).encode(picture, 30)

    while is_running(int(pid.read_text())):
        assert time.monotonic() - start < 10
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (VvcCodec(backend="vvenc"), "vvencapp is not on PATH"),
        (VvcCodec(backend="vtm", vtm_config="x.cfg"), "EncoderApp or EncoderAppStatic is not on PATH"),
    ],
    ids=["vvenc", "vtm"],
)
def test_a_missing_program_is_named(picture, stream, monkeypatch, temp_folder, codec, message):
    monkeypatch.setenv("PATH", "")

    with pytest.raises(CodecUnavailableError, match=message):
        codec.encode(picture, 30)
    with pytest.raises(CodecUnavailableError, match=message.replace("Encoder", "Decoder").replace("venc", "vdec")):
        codec.decode(stream)


def test_vtm_without_a_configuration_is_a_wrong_argument(picture):
    with pytest.raises(ValueError, match="needs vtm_config"):
        VvcCodec(backend="vtm").encode(picture, 30)


def test_a_stream_whose_colour_is_not_tagged_is_refused(picture, fake_tool, tmp_path, temp_folder):
    untagged = Path(__file__).parent / "data" / "vvc" / "16x16_fast_q30.266"
    fake_tool("vvencapp", VVENCAPP.format(notes=tmp_path / "notes", answer=untagged))

    with pytest.raises(CodecError, match="vvenc encoder did not tag the colour"):
        VvcCodec(backend="vvenc").encode(picture, 30)


FFMPEG = """case "$*" in
*-encoders*) echo " V....D libvvenc  H.266" ;;
*-version*) echo "ffmpeg version 7.1-stand-in Copyright (c) someone" ;;
*) cat > /dev/null; for last; do :; done; cp {answer} "$last" ;;
esac"""


def test_the_ffmpeg_on_path_is_the_second_choice(photograph, stream, answer, fake_tool, monkeypatch, temp_folder):
    path = fake_tool("ffmpeg", FFMPEG.format(answer=answer))
    assert vvc_programs.find_ffmpeg() != str(path)
    monkeypatch.setattr(vvc_programs, "_bundled_ffmpeg", lambda: None)

    assert VvcCodec().encode(photograph[:48, :64], 30) == stream
    assert VvcCodec.availability()[0].detail.startswith("ffmpeg version 7.1-stand-in with libvvenc; decoder of PyAV")


def test_an_ffmpeg_without_libvvenc_is_reported_with_the_remedy(picture, fake_tool, monkeypatch):
    fake_tool("ffmpeg", "echo ' V....D libx265'")
    monkeypatch.setattr(vvc_programs, "_bundled_ffmpeg", lambda: None)

    with pytest.raises(CodecUnavailableError, match="no ffmpeg with libvvenc: install imageio-ffmpeg"):
        VvcCodec().encode(picture, 30)
    entry = VvcCodec.availability()[0]
    assert (entry.backend, entry.available) == ("ffmpeg", False)
    assert "install imageio-ffmpeg" in entry.detail


def test_availability_lists_every_backend(fake_tool):
    before = {entry.backend: entry for entry in VvcCodec.availability()}
    programs = [fake_tool(name, "exit 0") for name in ("EncoderAppStatic", "DecoderApp")]
    after = {entry.backend: entry for entry in VvcCodec.availability()}

    assert set(before) == set(after) == {"ffmpeg", "vvenc", "vtm"}
    assert before["ffmpeg"].available
    assert after["vtm"].available
    assert after["vtm"].detail == ", ".join(map(str, programs))


def test_a_killed_encoder_leaves_nothing_behind(picture, fake_tool, temp_folder):
    fake_tool("vvencapp", "kill -9 $$")

    with pytest.raises(ToolError, match="killed by signal 9"):
        VvcCodec(backend="vvenc").encode(picture, 30)


def test_real_encoding_leaves_no_temporary_file(photograph, temp_folder):
    FAST.encode(photograph[:17, :33], 40)

    assert os.listdir(temp_folder) == []
