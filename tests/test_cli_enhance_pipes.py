from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest
from enhance_command import enhance_command, environment, read, save


@pytest.fixture
def command(model) -> str:
    return enhance_command(model)


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", script], capture_output=True, cwd=folder, env=environment(), timeout=120)


def ffmpeg() -> str:
    return pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()


@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_a_pipe_gives_back_the_format_that_it_got(suffix, tmp_path, picture, command, enhancer):
    save(tmp_path / f"a.{suffix}", picture)

    run = shell(f"{command} - --codec bpg --qp 37 < a.{suffix} > out", tmp_path)

    assert (run.returncode, run.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes()[:2] == {"png": b"\x89P", "ppm": b"P6"}[suffix]
    assert np.array_equal(read(tmp_path / "out"), enhancer.enhance(picture, codec="bpg", qp=37))


def test_bpgdec_into_enhance(tmp_path, picture, command, fake_tool, enhancer):
    save(tmp_path / "decoded.png", picture)
    fake_tool("bpgdec", f'test "$1 $2 $3" = "-o /dev/stdout x.bpg" && cat {tmp_path}/decoded.png')

    run = shell(f"bpgdec -o /dev/stdout x.bpg | {command} - --codec bpg --qp 40 > y.png", tmp_path)

    assert run.returncode == 0, run.stderr
    assert np.array_equal(read(tmp_path / "y.png"), enhancer.enhance(picture, codec="bpg", qp=40))


def test_ffmpeg_into_enhance_into_ffmpeg(tmp_path, picture, command):
    save(tmp_path / "a.png", picture)
    script = (
        f"'{ffmpeg()}' -v error -loop 1 -i a.png -frames:v 3 -pix_fmt yuv420p -f yuv4mpegpipe - "
        f"| {command} - --codec vvc --qp 37 | '{ffmpeg()}' -v error -i - -f rawvideo -pix_fmt rgb24 out.rgb"
    )

    run = shell(script, tmp_path)

    assert (run.returncode, run.stderr) == (0, b"")
    frames = np.fromfile(tmp_path / "out.rgb", np.uint8).reshape(3, *picture.shape)
    assert np.array_equal(frames[0], frames[2])
    change = np.abs(frames[0].astype(int) - picture).mean()
    assert 2 < change < 60  # not the input, but not something else either


def test_vvdecapp_into_enhance(tmp_path, command, fake_tool):
    stream = b"YUV4MPEG2 W16 H16 F25:1 C420p10\n" + 2 * (b"FRAME\n" + bytes(16 * 16 * 3))
    (tmp_path / "v.y4m").write_bytes(stream)
    fake_tool("vvdecapp", f'test "$*" = "-b x.266 --y4m -o -" && cat {tmp_path}/v.y4m')

    run = shell(f"vvdecapp -b x.266 --y4m -o - | {command} - --strength 0", tmp_path)

    assert run.returncode == 0, run.stderr
    assert run.stdout == stream


def test_raw_video_needs_its_size(tmp_path, command):
    frames = np.random.default_rng(0).integers(0, 1024, (2, 16 * 12 * 3 // 2), dtype=np.uint16).tobytes()
    (tmp_path / "v.yuv").write_bytes(frames)

    run = shell(f"{command} v.yuv --size 16x12 --pix-fmt yuv420p10le --strength 0", tmp_path)

    assert run.returncode == 0, run.stderr
    assert b"2 frames" in run.stdout
    assert (tmp_path / "v.enhanced.yuv").read_bytes() == frames


def test_a_stream_cut_inside_a_frame_delivers_the_frames_before(tmp_path, command):
    stream = b"YUV4MPEG2 W16 H16 C444\n" + 2 * (b"FRAME\n" + bytes(768))
    (tmp_path / "v.y4m").write_bytes(stream + b"FRAME\n" + bytes(100))

    piped = shell(f"{command} - --strength 0 < v.y4m", tmp_path)
    filed = shell(f"{command} v.y4m --strength 0", tmp_path)

    for run in (piped, filed):
        assert run.returncode == 1
        assert len(run.stderr.splitlines()) == 1
        assert b"the stream ends inside frame 3, after 100 of its 768 bytes" in run.stderr
    assert piped.stdout == (tmp_path / "v.enhanced.y4m").read_bytes() == stream


def test_a_pipe_closed_downstream_ends_the_command_quietly(tmp_path, command):
    stream = b"YUV4MPEG2 W64 H64 C444\n" + 40 * (b"FRAME\n" + bytes(64 * 64 * 3))
    (tmp_path / "v.y4m").write_bytes(stream)

    run = shell(f"{command} - < v.y4m | head -c 10", tmp_path)

    assert run.stdout == stream[:10]
    assert run.stderr == b""


def test_a_terminal_gets_a_bar_that_never_goes_back(tmp_path, picture, command):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, picture)
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))

    script = f"TQDM_MININTERVAL=0 {command} a.png b.png --codec unknown --tile 32"
    run = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=terminal, cwd=tmp_path, env=environment(), timeout=120
    )

    os.close(terminal)
    shown = os.read(control, 1 << 16).decode()
    os.close(control)
    positions = [float(position) for position in re.findall(r"([0-9.]+)/2 pictures", shown)]
    assert run.returncode == 0
    assert positions == sorted(positions)
    assert max(positions) > 1.5  # the last step need not be drawn
    assert len(set(positions)) > 4
    assert run.stdout.count(b" -> ") == 2
