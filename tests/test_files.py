import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enhancer.errors import EnhancerError
from enhancer.files import open_atomically, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_all_bytes_with_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.png", b"x" * 100_000)
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").read_bytes() == b"x" * 100_000
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.png"]


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o600)

    with pytest.raises(EnhancerError, match="a exists already"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"

    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_created_meanwhile_by_another_process_is_not_replaced(tmp_path, monkeypatch, hard_links):
    path = tmp_path / "a"
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse_to_link)

    def write_while_another_comes_first() -> None:
        with open_atomically(path) as file:
            file.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(EnhancerError, match="exists already"):
        write_while_another_comes_first()
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a"]


def refuse_to_link(source: Path, path: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_new_file_is_written_on_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_to_link)
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=str)
def test_a_failure_leaves_neither_a_part_nor_a_temporary_file(tmp_path, monkeypatch, failure, overwrite):
    path = tmp_path / "a"
    if overwrite:
        path.write_bytes(b"old")

    def fail() -> None:
        with open_atomically(path, overwrite=overwrite) as file:
            file.write(b"new")
            raise failure

    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else EnhancerError):
        fail()
    assert names(tmp_path) == (["a"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


def test_a_file_that_the_disk_cannot_hold_is_one_line_and_nothing_is_left(tmp_path):
    script = (
        "import resource, signal; from enhancer.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        f"write_atomically({str(tmp_path / 'a')!r}, bytes(20000))\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(
        f"enhancer.errors.EnhancerError: cannot write {tmp_path / 'a'}: File"
    )
    assert names(tmp_path) == []


def test_a_full_device_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(EnhancerError, match="cannot write /dev/full: No space left on device"):
        write_atomically("/dev/full", b"data")


def test_missing_folder_and_folder_as_output_are_one_line(tmp_path):
    with pytest.raises(EnhancerError, match="No such file or directory"):
        write_atomically(tmp_path / "no" / "a", b"data")
    for overwrite in (False, True):
        with pytest.raises(EnhancerError, match="it is a folder"):
            write_atomically(tmp_path, b"data", overwrite=overwrite)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnhancerError, match="Permission denied"):
        write_atomically(tmp_path / "a", b"data")


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".png")
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("target")
    with pytest.raises(EnhancerError, match="link exists already"):
        write_atomically(link, b"new")
    write_atomically(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_named_pipe_receives_the_bytes_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"y" * 200_000)
    reader.join(timeout=30)
    assert received == [b"y" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_to_where_it_stands(tmp_path, name):
    script = f"from enhancer.files import write_atomically; write_atomically({name!r}, b'12345')"
    with (tmp_path / "out").open("wb") as out:
        out.write(b"before ")
        out.flush()
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"before 12345"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"12345"


def test_a_reader_that_went_away_is_a_broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError):
            write_atomically(f"/dev/fd/{writing}", b"data")
    finally:
        os.close(writing)
