from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.color import CENTRE, LEFT
from enhancer.errors import EnhancerError
from enhancer.streams import (
    StreamFormat,
    TruncatedStreamError,
    enhance_raw,
    enhance_y4m,
    parse_y4m_header,
    raw_format,
)


def y4m(form: StreamFormat, tag: str, frames: int = 2, seed: int = 0) -> bytes:
    """A stream of random frames with frame parameters."""
    rng = np.random.default_rng(seed)
    header = f"YUV4MPEG2 W{form.width} H{form.height} F30000:1001 Ip A1:1 C{tag} XSOMETHING\n".encode()
    samples = [rng.integers(0, 1 << form.bit_depth, form.frame_bytes // form.dtype.itemsize) for _ in range(frames)]
    return header + b"".join(b"FRAME Ippp\n" + frame.astype(form.dtype).tobytes() for frame in samples)


def run(stream: bytes, enhance) -> bytes:
    sink = io.BytesIO()
    enhance_y4m(io.BytesIO(stream), sink, enhance)
    return sink.getvalue()


TAGS = ["420jpeg", "420mpeg2", "420paldv", "420", "420p10", "422", "422p12", "444", "444p9", "mono", "mono10", "mono12"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("size", [(16, 24), (7, 5), (1, 1)], ids=str)
def test_a_network_that_changes_nothing_leaves_every_byte(tag, size):
    form = parse_y4m_header(f"YUV4MPEG2 W{size[1]} H{size[0]} C{tag}".encode())
    stream = y4m(form, tag)

    assert run(stream, lambda image, chroma: image) == stream


@given(
    tag=st.sampled_from(TAGS),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
)
def test_brightening_raises_luma_alone(tag, height, width):
    """A correction equal in R, G and B has no chroma; luma has 219 of 256 codes, without chroma all of them."""
    form = parse_y4m_header(f"YUV4MPEG2 W{width} H{height} C{tag}".encode())
    peak = 1 << form.bit_depth
    frame = np.full(form.frame_bytes // form.dtype.itemsize, peak // 2, form.dtype)
    stream = f"YUV4MPEG2 W{width} H{height} C{tag}\nFRAME\n".encode() + frame.tobytes()

    result = run(stream, lambda image, chroma: image + np.uint16(6554))  # a tenth of the full range

    samples = np.frombuffer(result[-form.frame_bytes :], form.dtype).astype(int)
    luma = height * width
    codes = peak - 1 if form.chroma == "400" else 219 / 256 * peak
    assert np.abs(samples[:luma] - (peak // 2 + 0.1 * codes)).max() <= 0.6
    assert (samples[luma:] == peak // 2).all()


def test_a_colour_correction_reaches_half_resolution_chroma():
    """Red + 1/10 in BT.601: Cr rises by 0.5 * 0.1, scaled to 224 codes; Cb falls by 0.1687 * 0.1."""
    form = StreamFormat(32, 32, "420", 8, siting=CENTRE)
    stream = b"YUV4MPEG2 W32 H32 C420jpeg\nFRAME\n" + bytes([128]) * form.frame_bytes

    def redden(image, chroma):
        return image + np.array([6553.5, 0, 0]).astype(np.uint16)

    samples = np.frombuffer(run(stream, redden)[-form.frame_bytes :], np.uint8)

    assert set(samples[: 32 * 32]) == {round(128 + 0.299 * 0.1 * 219)}
    assert set(samples[32 * 32 : 32 * 32 + 256]) == {round(128 - 0.1 * 0.299 / 1.772 * 224)}
    assert set(samples[-256:]) == {round(128 + 0.5 * 0.1 * 224)}


def test_the_network_sees_the_picture_that_ffmpeg_would_show(photograph, tmp_path):
    """Planes made by ffmpeg come to the network as the RGB picture they were made of."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    image = photograph[:128, :160]
    command = [ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x128", "-i", "-"]
    command += ["-sws_flags", "accurate_rnd+full_chroma_int", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    stream = subprocess.run(command, input=image.tobytes(), capture_output=True, check=True).stdout
    seen = []

    run(stream, lambda rgb, chroma: seen.append(rgb) or rgb)

    assert np.abs(seen[0] / 257 - image).mean() < 1


def test_header_and_frame_parameters_are_kept():
    form = StreamFormat(8, 8, "444")
    stream = y4m(form, "444", frames=3)

    result = run(stream, lambda image, chroma: 65535 - image)

    assert result.splitlines()[0] == stream.splitlines()[0]
    assert result.count(b"FRAME Ippp\n") == 3
    assert result != stream


@pytest.mark.parametrize("cut", [1, 50, 191])
def test_whole_frames_before_a_cut_are_delivered(cut):
    form = StreamFormat(8, 8, "444")
    stream = y4m(form, "444", frames=3)
    sink = io.BytesIO()

    with pytest.raises(TruncatedStreamError, match=f"inside frame 3, after {192 - cut} of its 192 bytes"):
        enhance_y4m(io.BytesIO(stream[:-cut]), sink, lambda image, chroma: image)

    assert sink.getvalue() == y4m(form, "444", frames=3)[: -192 - len(b"FRAME Ippp\n")]


def test_a_stream_is_delivered_frame_by_frame():
    form = StreamFormat(8, 8, "400")
    events = []

    class Sink(io.BytesIO):
        def flush(self):
            events.append("out")

    stream = y4m(form, "mono", frames=3)
    enhance_y4m(io.BytesIO(stream), Sink(), lambda image, chroma: events.append("network") or image)

    assert events == ["network", "out"] * 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"RIFF", "not a YUV4MPEG2 stream"),
        (b"YUV4MPEG2 W8", "no width and height"),
        (b"YUV4MPEG2 W-8 H8", "no width and height"),
        (b"YUV4MPEG2 W0 H8", "0 x 8 are not supported"),
        (b"YUV4MPEG2 W99999999 H99999999", "not supported"),
        (b"YUV4MPEG2 W8 H8 C411", "C411 is not supported; known: mono"),
        (b"YUV4MPEG2 W8 H8 C444alpha", "C444alpha is not supported"),
        (b"YUV4MPEG2 W8 H8 It", "interlaced"),
    ],
)
def test_headers_that_are_not_supported_are_named(header, message):
    with pytest.raises(EnhancerError, match=message):
        parse_y4m_header(header)


def test_damaged_streams_are_named():
    with pytest.raises(TruncatedStreamError, match="the header of the YUV4MPEG2 stream is cut off"):
        run(b"YUV4MPEG2 W8 H8", lambda image, chroma: image)
    with pytest.raises(TruncatedStreamError, match="the header of frame 1 is cut off"):
        run(b"YUV4MPEG2 W8 H8\nFRA", lambda image, chroma: image)
    with pytest.raises(EnhancerError, match="frame 1 of the YUV4MPEG2 stream does not begin with FRAME"):
        run(b"YUV4MPEG2 W8 H8\nFROME\n" + bytes(96), lambda image, chroma: image)


def test_header_fields_are_understood():
    form = parse_y4m_header(b"YUV4MPEG2 W1280 H720 F25:1 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=FULL")
    assert (form.siting, form.full_range, form.chroma) == (LEFT, True, "420")
    assert form.ycbcr.kr == 0.2126
    assert parse_y4m_header(b"YUV4MPEG2 W1280 H719 C420jpeg").siting == CENTRE
    assert parse_y4m_header(b"YUV4MPEG2 W1280 H719").ycbcr.kr == 0.299
    assert parse_y4m_header(b"YUV4MPEG2 W1280 H720", "bt601").ycbcr.kr == 0.299


def test_raw_planes_have_the_layout_that_their_pixel_format_says():
    assert raw_format("7x5", "yuv420p").shapes == ((5, 7), (3, 4), (3, 4))
    assert raw_format("7x5", "yuv422p10le").shapes == ((5, 7), (5, 4), (5, 4))
    assert raw_format("7x5", "yuv422p10le").frame_bytes == 2 * (35 + 40)
    assert raw_format("7x5", "gray").shapes == ((5, 7),)
    assert raw_format("7x5", "yuvj444p").full_range
    for size, pixel_format in [
        ("7", "yuv420p"),
        ("7x5", "rgb24"),
        ("7x5", "yuv"),
        ("7x5", "gray420p"),
        ("7x5", "yuv420p10be"),
    ]:
        with pytest.raises(ValueError, match=r"size must be WIDTHxHEIGHT|is not supported"):
            raw_format(size, pixel_format)


def test_raw_frames_pass_one_by_one():
    form = raw_format("6x4", "yuv420p10le")
    frames = np.random.default_rng(0).integers(0, 1024, (3, 36), dtype=np.uint16).tobytes()
    sink = io.BytesIO()

    assert enhance_raw(io.BytesIO(frames), sink, lambda image, chroma: image, form) == 3
    assert sink.getvalue() == frames
    with pytest.raises(TruncatedStreamError, match="inside frame 3, after 71 of its 72 bytes"):
        enhance_raw(io.BytesIO(frames[:-1]), io.BytesIO(), lambda image, chroma: image, form)


@pytest.mark.parametrize("tag", ["420jpeg", "422", "444", "mono"])
def test_the_network_is_told_the_chroma_format(tag):
    form = parse_y4m_header(f"YUV4MPEG2 W8 H6 C{tag}".encode())
    told = []

    run(y4m(form, tag, frames=2), lambda image, chroma: told.append(chroma) or image)

    assert told == 2 * ["400" if tag == "mono" else tag[:3]]
