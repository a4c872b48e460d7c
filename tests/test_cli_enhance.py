from __future__ import annotations

import gc
import io
import json
import re
import shlex
import shutil
import signal
import struct
import subprocess
import time
import zlib

import numpy as np
import pytest
from enhance_command import enhance_command, environment, read, save
from PIL import Image
from safetensors.numpy import save_file

from codec_wrappers import get_codec
from enhancer import image_io
from enhancer.cli.common import without_collection
from enhancer.cli.enhance import EXAMPLES, build_parser, main
from enhancer.inference import Enhancer


@pytest.fixture
def enhance(model):
    """Runs the command in this process with the small network; returns the exit status."""
    return lambda *args: main([*map(str, args), "--model", model, "--backend", "torch", "--threads", "1"])


@pytest.fixture
def command(model) -> str:
    return enhance_command(model)


# Pictures in and out


def test_a_jpeg_becomes_a_png_beside_it_conditioned_on_its_quality(tmp_path, picture, enhance, enhancer, capsys):
    source = save(tmp_path / "a.jpg", picture, quality=30)

    assert enhance(source) == 0

    expected = enhancer.enhance_decoded(get_codec("jpeg").decode(source.read_bytes()))
    assert np.array_equal(read(tmp_path / "a.enhanced.png"), expected)
    line = capsys.readouterr().out
    assert line.startswith(f"{source} -> {tmp_path / 'a.enhanced.png'}: jpeg qp 30, ")


@pytest.mark.parametrize(
    ("codec", "options"), [("bpg", {}), ("bpg", {"chroma": "444"}), ("vvc", {}), ("webp", {})], ids=str
)
def test_codec_qp_and_chroma_come_from_the_bitstream(codec, options, tmp_path, picture, enhance, enhancer, capsys):
    bitstream = get_codec(codec, **options).encode(picture, 37)
    source = tmp_path / "x.bin"
    source.write_bytes(bitstream)

    assert enhance(source, "-o", tmp_path / "x.png", "--json") == 0

    decoded = get_codec(codec).decode(bitstream)
    report = json.loads(capsys.readouterr().out)
    assert (report["codec"], report.get("qp")) == (codec, decoded.info.qp)
    assert (report["height"], report["width"], report["status"]) == (96, 128, "enhanced")
    expected = enhancer.enhance_decoded(decoded)
    assert np.array_equal(read(tmp_path / "x.png"), expected)
    bare = enhancer.enhance(decoded.image, codec=codec, qp=decoded.info.qp, chroma=decoded.info.chroma)
    assert not np.array_equal(expected, bare)


def test_a_file_of_the_best_quality_is_left_as_it_is_and_the_user_is_told(tmp_path, picture, enhance, capsys):
    best = save(tmp_path / "best.jpg", picture, quality=100)
    good = save(tmp_path / "good.jpg", picture, quality=98)

    assert enhance(best, good) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert ": jpeg qp 100, too good to be corrected, " in first
    assert ": jpeg qp 98, " in second
    assert "too good" not in second
    assert np.array_equal(read(tmp_path / "best.enhanced.png"), read(best))
    assert not np.array_equal(read(tmp_path / "good.enhanced.png"), read(good))


def test_a_bare_picture_is_what_the_user_says(tmp_path, picture, enhance, enhancer):
    source = save(tmp_path / "a.png", picture)

    assert enhance(source, "-o", tmp_path / "blind.png", "--codec", "unknown") == 0
    assert enhance(source, "-o", tmp_path / "told.png", "--codec", "bpg", "--qp", "40", "--strength", "0.5") == 0

    assert np.array_equal(read(tmp_path / "blind.png"), enhancer.enhance(picture))
    half = Enhancer(enhancer.checkpoint, enhancer.backend, strength=0.5)
    assert np.array_equal(read(tmp_path / "told.png"), half.enhance(picture, codec="bpg", qp=40))


@pytest.mark.parametrize("kind", ["gray", "alpha", "sixteen", "gray16"])
def test_channels_and_depth_are_kept(kind, tmp_path, picture, enhance, enhancer):
    wide = picture.astype(np.uint16) * 257
    alpha = np.dstack([picture, np.arange(128, dtype=np.uint8) * np.ones((96, 1), np.uint8)])
    image = {"gray": picture[..., 0], "alpha": alpha, "sixteen": wide, "gray16": wide[..., 1]}[kind]
    image_io.write_picture(tmp_path / "a.png", image_io.Picture(image))

    assert enhance(tmp_path / "a.png", "--codec", "unknown") == 0

    result = read(tmp_path / "a.enhanced.png")
    assert np.array_equal(result, enhancer.enhance(image))
    if kind == "alpha":
        assert np.array_equal(result[..., 3], alpha[..., 3])


def test_metadata_are_kept_or_stripped(tmp_path, picture, enhance):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    source = save(tmp_path / "a.jpg", picture, exif=exif, icc_profile=b"profile" * 20, dpi=(300, 300))

    assert enhance(source, "-o", tmp_path / "kept.png") == 0
    assert enhance(source, "-o", tmp_path / "bare.png", "--strip") == 0
    assert enhance(source, "-o", tmp_path / "upright.ppm") == 0

    with Image.open(tmp_path / "kept.png") as kept, Image.open(tmp_path / "bare.png") as bare:
        assert (kept.getexif()[0x0112], kept.getexif()[0x010F], kept.size) == (6, "Maker", (128, 96))
        assert kept.info["icc_profile"] == bare.info["icc_profile"] == b"profile" * 20
        assert 0x010F not in bare.getexif()
        assert bare.size == (96, 128)  # the orientation is in the pixels now
    assert read(tmp_path / "upright.ppm").shape == (128, 96, 3)


def test_a_format_that_is_named_counts_more_than_the_suffix(tmp_path, picture, enhance):
    source = save(tmp_path / "a.png", picture)

    assert enhance(source, "-o", tmp_path / "out", "-f", "ppm") == 0

    assert (tmp_path / "out").read_bytes().startswith(b"P6")
    assert read(tmp_path / "out").shape == picture.shape


def test_a_comparison_sheet_lies_beside_the_output(tmp_path, picture, enhance):
    source = save(tmp_path / "a.png", picture)

    assert enhance(source, "-o", tmp_path / "out.png", "--compare") == 0

    assert read(tmp_path / "out.compare.png").shape[1] == 2 * 320 + 3 * 8


# Many files


def test_nothing_is_overwritten_unless_asked(tmp_path, picture, enhance, capsys):
    source = save(tmp_path / "a.png", picture)
    output = tmp_path / "out.png"
    output.write_text("precious")

    assert enhance(source, "-o", output) == 1
    assert "out.png exists already; choose --overwrite or --skip-existing" in capsys.readouterr().err
    assert enhance(source, "-o", output, "--skip-existing") == 0
    assert output.read_text() == "precious"
    assert enhance(source, "-o", output, "--overwrite") == 0
    assert read(output).shape == picture.shape


def test_one_bad_file_is_reported_and_the_rest_go_on(tmp_path, picture, enhance, capsys):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    save(tmp_path / "in" / "a.png", picture)
    (tmp_path / "in" / "b.png").write_text("no picture at all")
    save(folder / "c.bmp", picture)

    assert enhance(tmp_path / "in", "-o", tmp_path / "out", "--recursive", "--json") == 1

    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["status"] for report in reports] == ["enhanced", "failed", "enhanced"]
    assert "not a picture" in reports[1]["error"]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["a.png", "c.bmp", "deep"]


def test_a_second_run_with_skip_existing_finishes_the_rest(tmp_path, picture, enhance, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, picture)
    assert enhance(tmp_path / "in", "-o", tmp_path / "out", "-q") == 0
    (tmp_path / "out" / "b.png").unlink()
    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns

    assert enhance(tmp_path / "in", "-o", tmp_path / "out", "--skip-existing", "--json") == 0

    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["status"] for report in reports] == ["skipped", "enhanced"]
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == before


def test_two_outputs_with_one_name_are_refused_before_work_starts(tmp_path, picture, enhance, capsys):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", picture)
    save(tmp_path / "in" / "a.jpg", picture)

    assert enhance(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_only_whole_files(tmp_path, picture, command, stop, status):
    (tmp_path / "in").mkdir()
    for index in range(60):
        save(tmp_path / "in" / f"{index:02}.png", np.tile(picture, (4, 4, 1)))
    output = tmp_path / "out"
    script = f"exec {command} --ensemble dihedral in -o out"
    process = subprocess.Popen(["sh", "-c", script], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    while not list(output.glob("*.png")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(stop)

    _, stderr = process.communicate(timeout=60)

    assert process.returncode == status
    assert stderr == b""
    done = sorted(output.iterdir())
    assert 0 < len(done) < 60
    assert all(read(path).shape == (384, 512, 3) for path in done)


def test_a_list_on_standard_input_is_answered_line_by_line(tmp_path, picture, command):
    save(tmp_path / "a.png", picture)
    script = f"{command} --stdin-list --codec bpg --qp 30"
    process = subprocess.Popen(
        ["sh", "-c", script], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    answers = []
    for line in ("a.png\tout/a b.png", "missing.png\tb.png", "no tab here"):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        answers.append(json.loads(process.stdout.readline()))
    process.stdin.close()

    assert process.wait(timeout=60) == 1
    process.stdout.close()
    assert [answer["status"] for answer in answers] == ["enhanced", "failed", "failed"]
    assert answers[0]["qp"] == 30
    assert "No such file" in answers[1]["error"]
    assert "IN<TAB>OUT" in answers[2]["error"]
    assert read(tmp_path / "out" / "a b.png").shape == picture.shape


# Bad input


def gigapixel_png() -> bytes:
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(100)


def truncated_png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "gigapixel", "animated"])
def test_bad_input_is_one_line_and_leaves_nothing(kind, tmp_path, picture, enhance, capsys):
    source = tmp_path / "bad.png"
    if kind == "animated":
        frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
        frames[0].save(source, "GIF", save_all=True, append_images=frames[1:])
    else:
        content = {"empty": b"", "text": b"hello", "truncated": truncated_png(picture), "gigapixel": gigapixel_png()}
        source.write_bytes(content[kind])

    assert enhance(source) == 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"enhance: {source}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5), (8, 30_000, 3)], ids=str)
def test_pictures_of_odd_sizes_keep_their_size(shape, tmp_path, enhance):
    source = save(tmp_path / "a.png", np.zeros(shape, np.uint8))

    assert enhance(source) == 0
    assert read(tmp_path / "a.enhanced.png").shape == shape


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, picture, enhance, capsys):
    source = save(tmp_path / "a.png", picture)
    (tmp_path / "file").touch()

    assert enhance(source, "-o", tmp_path / "file" / "out.png") == 1
    assert enhance(source, "-o", tmp_path / "out.xyz") == 1
    assert enhance(tmp_path / "none.png") == 1
    assert enhance(source, "-o", "/dev/full", "-f", "png") == 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "Not a directory" in lines[0] or "File exists" in lines[0]
    assert "no picture format for the suffix .xyz" in lines[1]
    assert "none.png: no such file" in lines[2]
    assert "No space left on device" in lines[3]


def test_a_bad_checkpoint_is_one_line(tmp_path, picture, model, capsys):
    source = str(save(tmp_path / "a.png", picture))
    damaged = tmp_path / "net.safetensors"
    shutil.copy(model, damaged)
    damaged.write_bytes(damaged.read_bytes()[:1000])

    foreign = tmp_path / "foreign.safetensors"
    save_file({"conv.weight": np.zeros((1, 1), np.float32)}, foreign)

    assert main([source, "--model", str(damaged)]) == 1
    assert main([source, "--model", str(foreign)]) == 1
    assert main([source, "--model", "nothing"]) == 1
    assert main([source, "--model", model, "--backend", "openvino", "--precision", "int8"]) == 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "not a whole safetensors file" in lines[0]
    assert "no checkpoint of this package" in lines[1]
    assert "cannot read checkpoint nothing" in lines[2]
    assert "not calibrated for int8" in lines[3] or "needs openvino" in lines[3]


def test_what_is_loaded_at_the_start_is_left_out_of_garbage_collection():
    before = gc.get_freeze_count()
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before

    gc.disable()  # somebody else's choice stays
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("line", [line.strip() for line in EXAMPLES.splitlines()[1:]])
def test_the_examples_of_the_help_are_understood(line):
    command = re.search(r"\benhance (.*?)(?:  .*|[|<>].*)?$", line)[1]

    args = build_parser().parse_args(shlex.split(command))

    assert bool(args.inputs) != args.stdin_list


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("enhance --ensemble ", {"none", "rotate", "dihedral"}),
        ("enhance --codec vv", {"vvc"}),
        ("enhance a.png --str", {"--strength", "--strip"}),
        ("enhance a", set()),
    ],
)
def test_the_shell_completes_options_and_choices(line, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--completion", "bash"])
    assert caught.value.code == 0
    words = line.split(" ")
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); "
        f'COMP_CWORD={len(words) - 1}; _enhance_complete; echo "${{COMPREPLY[@]}}"'
    )

    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)

    assert set(run.stdout.split()) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ""),
        (["a.png", "--stdin-list"], ""),
        (["a.png", "--strength", "2"], "--strength: expected a number in 0..1, got '2'"),
        (["a.png", "--strength", "nan"], "--strength: expected a number in 0..1, got 'nan'"),
        (["a.png", "--strength", "much"], "--strength: expected a number in 0..1, got 'much'"),
        (["a.png", "--tile", "0"], "--tile: expected a whole number of at least 1, got '0'"),
        (["a.png", "--threads", "none"], "--threads: expected a whole number of at least 1, got 'none'"),
        (["a.png", "--codec", "mp3"], "mp3"),
        (["a.png", "--overwrite", "--skip-existing"], ""),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "usage: enhance" in shown
    assert said in shown
