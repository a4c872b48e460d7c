"""The command ``enhance-codec``: what it writes, what it says, and how it fails."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from codec_command import assert_failed, isolate, pixels, run_codec
from PIL import Image as PillowImage

from codec_wrappers import codec_names, get_codec
from enhancer.cli.codec import main

COMMAND = [sys.executable, "-m", "enhancer.cli.codec"]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    folder = isolate(tmp_path, monkeypatch)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def png(tmp_path, picture):
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    PillowImage.fromarray(picture).save(path)
    return path


@pytest.fixture
def run(capsys):
    """Runs the command within this process: ``run(*arguments) -> (status, stdout, stderr)``."""
    return functools.partial(run_codec, capsys)


@pytest.fixture
def usage_error(capsys):
    """Runs the command, which must find its usage wrong, and returns what it says."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        return capsys.readouterr().err

    return call


def test_a_picture_goes_through_a_codec_and_back(run, png, tmp_path):
    encoded = run("encode", png, "-o", tmp_path / "x.webp", "--qp", 60)
    decoded = run("decode", tmp_path / "x.webp", "-o", tmp_path / "x.png")

    stream = get_codec("webp").encode(pixels(png), 60)
    assert (tmp_path / "x.webp").read_bytes() == stream
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), get_codec("webp").decode(stream).image)
    assert encoded[:2] == decoded[:2] == (0, "")
    assert f"x.webp: webp qp 60, {len(stream)} bytes" in encoded[2]
    assert "x.png: 128 x 96, webp" in decoded[2]


def test_json_says_what_was_written(run, png, tmp_path):
    status, out, err = run("encode", png, "-o", tmp_path / "x.bpg", "--bpp", 0.8, "--preset", "fast", "--json")
    facts = json.loads(out)
    stream = (tmp_path / "x.bpg").read_bytes()

    assert (status, err) == (0, "")
    assert facts["bytes"] == len(stream) <= 0.8 * 96 * 128 / 8
    assert facts["bytes"] >= 0.97 * 0.8 * 96 * 128 / 8
    assert facts["bpp"] == pytest.approx(8 * len(stream) / (96 * 128))
    assert (facts["codec"], facts["width"], facts["height"]) == ("bpg", 128, 96)
    assert facts["options"]["preset"] == "fast"
    codec = get_codec("bpg", **facts["options"])
    assert codec.lambda_scale == facts["lambda_scale"]
    assert codec.encode(pixels(png), facts["qp"]) == stream

    status, out, err = run("decode", tmp_path / "x.bpg", "-o", tmp_path / "x.png", "--json")
    facts = {**facts, **json.loads(out)}
    assert (status, err) == (0, "")
    assert (facts["codec"], facts["qp"], facts["chroma"], facts["bit_depth"]) == ("bpg", facts["qp"], "420", 8)


def test_bytes_limit_and_options_by_name(run, png, tmp_path):
    status, out, _ = run(
        *("encode", png, "-o", tmp_path / "x.dat", "-c", "jpeg", "--bytes", 3000, "--chroma", "444"),
        *("--option", "max_pixels=1000000", "--json"),
    )

    assert status == 0
    assert 2800 <= (tmp_path / "x.dat").stat().st_size <= 3000
    assert json.loads(out)["options"]["chroma"] == "444"
    assert json.loads(out)["options"]["max_pixels"] == 1_000_000


def test_metadata_are_kept_unless_stripped(run, picture, tmp_path):
    exif = PillowImage.Exif()
    exif[0x010E] = "a description"
    PillowImage.fromarray(picture).save(tmp_path / "x.png", exif=exif)

    run("encode", tmp_path / "x.png", "-o", tmp_path / "kept.jpg", "--qp", 50)
    run("encode", tmp_path / "x.png", "-o", tmp_path / "stripped.jpg", "--qp", 50, "--strip")

    kept, stripped = (
        get_codec("jpeg").decode((tmp_path / f"{name}.jpg").read_bytes()) for name in ("kept", "stripped")
    )
    assert b"a description" in kept.metadata.exif
    assert not stripped.metadata


def test_pipes_carry_binary_data_only(png, picture):
    encode = subprocess.run(
        [*COMMAND, "encode", "-", "-o", "-", "-c", "jpeg", "--qp", "80"],
        input=png.read_bytes(),
        capture_output=True,
        cwd=ROOT,
    )
    decode = subprocess.run(
        [*COMMAND, "decode", "-", "-o", "-", "-f", "ppm"], input=encode.stdout, capture_output=True, cwd=ROOT
    )

    assert encode.returncode == decode.returncode == 0
    assert encode.stdout == get_codec("jpeg").encode(picture, 80)
    np.testing.assert_array_equal(pixels(io.BytesIO(decode.stdout)), get_codec("jpeg").decode(encode.stdout).image)


def test_a_reader_that_goes_away_is_no_error_message(png):
    process = subprocess.Popen(
        [*COMMAND, "encode", str(png), "-o", "-", "-c", "jpeg", "--qp", "80"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    process.stdout.close()

    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def huge_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda png: b"", "empty"),
        (lambda png: png[: len(png) // 2], ""),
        (lambda png: b"just some text, whatever the suffix says\n", "not a picture of any known kind"),
        (lambda png: huge_png(), "60000 x 60000"),
        (lambda png: b"BPG\xfb\x20\x00" + png[:30], ""),
    ],
    ids=["empty", "truncated", "text", "huge", "damaged bpg"],
)
def test_bad_pictures_are_one_line_and_no_file(run, png, tmp_path, content, message):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content(png.read_bytes()))
    (tmp_path / "out").mkdir()

    result = run("encode", bad, "-o", tmp_path / "out" / "x.jpg", "--bpp", 1)

    assert_failed(result, message, tmp_path / "out" / "x.jpg")
    assert "bad.png" in result[2]


@pytest.mark.parametrize("codec", ["bpg", "jpeg", "webp", "jpeg2000", "avif", "heic"])
@pytest.mark.parametrize(
    "damage", [lambda s: b"", lambda s: s[:5], lambda s: s[:40], lambda s: b"\1" + s], ids=["0", "5", "40", "shifted"]
)
def test_bad_bitstreams_are_one_line_and_no_file(run, picture, tmp_path, codec, damage):
    if not any(entry.available for entry in get_codec(codec).availability()):
        pytest.skip(f"{codec} does not work here")
    codec = get_codec(codec)
    bad = tmp_path / "bad.dat"
    bad.write_bytes(damage(codec.encode(picture[:32, :48], list(codec.qp_range.by_rate())[8])))
    (tmp_path / "out").mkdir()

    assert_failed(run("decode", bad, "-o", tmp_path / "out" / "x.png"), "bad.dat: ", tmp_path / "out" / "x.png")


def test_mislabelled_bitstream_is_decoded_by_what_it_is(run, picture, tmp_path):
    (tmp_path / "x.bpg").write_bytes(get_codec("webp").encode(picture, 50))

    status, out, _ = run("decode", tmp_path / "x.bpg", "-o", tmp_path / "x.png", "--json")

    assert (status, json.loads(out)["codec"]) == (0, "webp")


def test_limit_of_pixels_can_be_set(run, picture, tmp_path):
    (tmp_path / "x.bpg").write_bytes(get_codec("bpg", preset="fast").encode(picture, 40))

    result = run("decode", tmp_path / "x.bpg", "-o", tmp_path / "x.png", "--max-pixels", 12287)

    assert_failed(result, "above the limit of 12287", tmp_path / "x.png")


def test_missing_input_is_named(run, tmp_path):
    assert_failed(run("encode", tmp_path / "no.png", "-o", tmp_path / "x.jpg", "--qp", 1), "no.png")
    assert_failed(run("decode", tmp_path / "no.bpg", "-o", tmp_path / "x.png"), "no.bpg: No such file")


def test_outputs_that_cannot_be_written_fail_before_any_work(run, png, tmp_path):
    assert_failed(run("encode", png, "-o", tmp_path / "no" / "x.jpg", "--qp", 50), "there is no folder")
    assert_failed(run("encode", png, "-o", tmp_path, "-c", "jpeg", "--qp", 50), "it is a folder")
    assert_failed(run("encode", png, "-o", tmp_path / "x.doc", "--qp", 50), "no codec writes .doc")
    assert_failed(run("decode", png, "-o", tmp_path / "x.doc"), ".doc")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line(run, png):
    assert_failed(run("encode", png, "-o", "/dev/full", "-c", "jpeg", "--qp", 50), "No space left on device")


def test_existing_files_are_replaced_only_when_told(run, png, tmp_path):
    output = tmp_path / "x.jpg"
    output.write_bytes(b"precious")

    assert_failed(run("encode", png, "-o", output, "--qp", 50), "only with --overwrite")
    assert output.read_bytes() == b"precious"
    assert run("encode", png, "-o", output, "--qp", 50, "--overwrite")[0] == 0
    assert output.read_bytes() == get_codec("jpeg").encode(pixels(png), 50)


def test_output_that_is_the_input_is_refused_even_with_overwrite(run, png, tmp_path):
    link = tmp_path / "link.jpg"
    link.symlink_to(png)
    before = png.read_bytes()

    assert_failed(run("encode", png, "-o", link, "--qp", 50, "--overwrite"), "is the input")
    assert_failed(run("decode", link, "-o", png, "--overwrite"), "is the input")
    assert png.read_bytes() == before


def test_target_out_of_reach_names_the_range(run, png, tmp_path):
    result = run("encode", png, "-o", tmp_path / "x.jpg", "--bpp", 0.01)

    assert_failed(result, "out of reach: with jpeg this picture takes", tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qp", "101"], "qp must be an integer in 1..100, got 101"),
        (["--bpp", "-1"], "bpp must be a positive number, got -1"),
        (["--bytes", "0"], "target_bytes must be at least 1, got 0"),
        (["--qp", "5", "--preset", "best"], "codec 'jpeg' has no option 'preset'"),
        (["--qp", "5", "--option", "huffman=1"], "codec 'jpeg' has no option 'huffman'"),
    ],
)
def test_values_out_of_range_are_named(run, png, tmp_path, arguments, message):
    assert_failed(run("encode", png, "-o", tmp_path / "x.jpg", *arguments), message, tmp_path / "x.jpg")


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "x.png", "-o", "x.jpg"],
        ["encode", "x.png", "-o", "x.jpg", "--qp", "5", "--bpp", "1"],
        ["encode", "x.png", "-o", "x.jpg", "--qp", "5", "-c", "gif"],
        ["encode", "x.png", "-o", "x.jpg", "--qp", "5", "--option", "chroma"],
        ["encode", "x.png", "-o", "-", "--qp", "5"],
        ["encode", "x.png", "-o", "-", "-c", "jpeg", "--qp", "5", "--json"],
        ["decode", "x.bpg", "-o", "-", "--json"],
        ["mix", "folder", "-o", "out", "--bpp", "1"],
        [],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(usage_error, arguments):
    assert "usage: enhance-codec" in usage_error(*arguments)


def test_missing_encoder_is_one_line(run, png, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    result = run("encode", png, "-o", tmp_path / "x.bpg", "--qp", 40, "--backend", "libbpg")

    assert_failed(result, "bpgenc", tmp_path / "x.bpg")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'not today' >&2; exit 7", "bpgenc exited with status 7: not today"),
        ("kill -9 $$", "bpgenc was killed by signal 9"),
        ("sleep 60", "bpgenc took longer than 0.5 s"),
    ],
    ids=["fails", "killed", "hangs"],
)
def test_encoder_that_fails_is_one_line(run, fake_tool, png, tmp_path, script, message):
    fake_tool("bpgenc", script)

    started = time.monotonic()
    result = run(
        *("encode", png, "-o", tmp_path / "x.bpg", "--bpp", 0.5),
        *("--backend", "libbpg", "--option", "timeout_s=0.5"),
    )

    assert_failed(result, message, tmp_path / "x.bpg")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_encode_leaves_neither_process_nor_file(fake_tool, png, tmp_path, stop, status):
    fake_tool("bpgenc", f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 60")
    (tmp_path / "out").mkdir()
    run = subprocess.Popen(
        [*COMMAND, "encode", png, "-o", tmp_path / "out" / "x.bpg", "--bpp", "0.5", "--backend", "libbpg"],
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    run.send_signal(stop)
    stderr = run.communicate(timeout=20)[1]

    assert (run.returncode, stderr) == (status, b"")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_list_names_every_codec_and_reason(run):
    facts = json.loads(run("list", "--json")[1])
    text = run("list")[1]

    assert set(facts) == set(codec_names())
    assert facts["jpeg"]["qp_worst"] < facts["jpeg"]["qp_best"]
    assert facts["bpg"]["qp_worst"] > facts["bpg"]["qp_best"]
    for name, codec in facts.items():
        assert name in text
        for backend in codec["backends"]:
            assert backend["detail"] in text
    assert facts["jpeg"]["available"]
