"""The folder of finished encodes: what hits, what misses, what happens to damage and to many writers."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from synthetic_codec import CurveCodec, flat

from codec_wrappers import REGISTRY, Availability, Metadata
from codec_wrappers.encode_cache import EncodeCache, code_sha256, default_folder, encode_key

IMAGE = flat(100, 24, 32)


@pytest.fixture
def cache(tmp_path):
    return EncodeCache(tmp_path / "deep" / "cache")


def files(cache):
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def test_the_second_encode_is_read_back(cache, tmp_path):
    codec = CurveCodec(log=str(tmp_path / "log"))

    first, second = cache.encode(codec, IMAGE, 30), cache.encode(codec, IMAGE, 30)

    assert first == second == CurveCodec().encode(IMAGE, 30)
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_everything_that_decides_the_stream_is_part_of_the_key():
    @dataclass(frozen=True)
    class OtherVersion(CurveCodec):
        name: ClassVar[str] = "curve"

        @classmethod
        def availability(cls):
            return (Availability("python", True, "1.1"),)

    OtherVersion.__qualname__ = "CurveCodec"  # the same in print; only the encoder's version differs
    changed = IMAGE.copy()
    changed[3, 4, 1] += 1
    keys = [
        encode_key(CurveCodec(), IMAGE, 30),
        encode_key(CurveCodec(), IMAGE, 31),
        encode_key(CurveCodec(lambda_scale=0.9), IMAGE, 30),
        encode_key(OtherVersion(), IMAGE, 30),
        encode_key(CurveCodec(), changed, 30),
        encode_key(CurveCodec(), IMAGE.reshape(32, 24, 3), 30),
        encode_key(CurveCodec(), IMAGE.view(np.int8), 30),
        encode_key(CurveCodec(), IMAGE, 30, Metadata(exif=b"x")),
        encode_key(CurveCodec(), IMAGE, 30, Metadata(icc=b"x")),
    ]

    assert len(set(keys)) == len(keys)
    assert encode_key(CurveCodec(), np.asfortranarray(IMAGE), np.int64(30)) == keys[0]


def test_files_that_a_codec_depends_on_are_part_of_the_key(tmp_path):
    @dataclass(frozen=True)
    class WithWeights(CurveCodec):
        def fingerprint(self):
            return (tmp_path / "weights").read_text()

    (tmp_path / "weights").write_text("old")
    before = encode_key(WithWeights(), IMAGE, 30)
    (tmp_path / "weights").write_text("new")

    assert encode_key(WithWeights(), IMAGE, 30) != before


@pytest.fixture
def edit_source(monkeypatch):
    """Makes a module of the package look as if its source ended with another line."""
    import codec_wrappers.encode_cache as module

    original = module._source

    def edit(name: str, line: bytes) -> None:
        monkeypatch.setattr(module, "_source", lambda m: original(m) + line * (m == f"codec_wrappers.{name}"))
        code_sha256.cache_clear()

    yield edit
    code_sha256.cache_clear()


@pytest.mark.parametrize(
    ("edited", "concerned"),
    [
        ("bpg_container", {"bpg"}),
        ("hevc_syntax", {"bpg", "avif", "heic"}),
        ("vvc_sei", {"vvc"}),
        ("pillow_codecs", {"jpeg", "webp", "avif", "heic", "jpeg2000"}),
        ("registry", set()),
        ("allocation", set()),
    ],
)
def test_the_key_of_a_codec_depends_on_the_sources_it_runs_only(edit_source, edited, concerned):
    names = {"bpg", "vvc", "jpeg", "webp", "avif", "heic", "jpeg2000"}
    codecs = [codec for codec in REGISTRY if codec.name in names]
    before = {codec.name: code_sha256(codec) for codec in codecs}

    edit_source(edited, b"\nCHANGED = 1\n")

    assert {codec.name for codec in codecs if code_sha256(codec) != before[codec.name]} == concerned


def test_a_comment_leaves_the_key_as_it_is(edit_source):
    before = [code_sha256(codec) for codec in REGISTRY]

    edit_source("base", b"\n# More words.\n")

    assert [code_sha256(codec) for codec in REGISTRY] == before


@pytest.mark.parametrize(
    "damage",
    [lambda entry: b"", lambda entry: entry[:20], lambda entry: entry[:-1], lambda entry: entry[:-1] + b"x"],
    ids=["empty", "in the digest", "truncated", "changed"],
)
def test_a_damaged_entry_is_made_anew(cache, damage):
    stream = cache.encode(CurveCodec(), IMAGE, 30)
    (path,) = files(cache)
    path.write_bytes(damage(path.read_bytes()))

    assert cache.load(encode_key(CurveCodec(), IMAGE, 30)) is None
    assert cache.encode(CurveCodec(), IMAGE, 30) == stream
    assert cache.load(encode_key(CurveCodec(), IMAGE, 30)) == stream


def test_a_failed_write_leaves_nothing(cache, monkeypatch):
    def full_disk(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codec_wrappers.encode_cache.os.replace", full_disk)

    with pytest.raises(OSError, match="No space left"):
        cache.encode(CurveCodec(), IMAGE, 30)
    assert files(cache) == []


def _store_many(folder, seed):
    cache = EncodeCache(Path(folder))
    for qp in np.random.default_rng(seed).integers(0, 52, 60):
        codec = replace(CurveCodec(), seed=int(qp) % 3)
        assert cache.encode(codec, IMAGE, int(qp)) == codec.encode(IMAGE, int(qp))


def test_many_processes_may_share_a_folder(cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_store_many, [(str(cache.folder), seed) for seed in range(3)])

    assert files(cache)
    assert all(path.suffix != ".tmp" for path in files(cache))


def test_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ENHANCER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "enhancer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "enhancer"
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "own"))
    assert EncodeCache().folder == tmp_path / "own"
