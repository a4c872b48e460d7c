"""``python -m train pack``: a store -> self-contained shards that train elsewhere without any encoder.

A shard is an uncompressed zip of lossless WebP pictures and an ``index.jsonl`` as in the store (its
offsets count through the shard's pictures in order). ``unpack`` makes a store from shards again; it
needs numpy and Pillow only. A shard of bitstreams holds those instead of the decoded pictures, a tenth of the
size; the machine that unpacks it needs the decoders (PyAV for BPG and VVC).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from train.progress import track
from train.store import Original, Pair, PairStore, PairWriter, Pixels, pixels_of


def pack(store_folder: Path, output: Path, *, shard_megabytes: float, bitstreams: bool = False) -> list[Path]:
    """Writes ``shard_000.zip`` … into ``output``; an original and all its pairs stay in one shard.

    Args:
        store_folder: Store to pack.
        output: Folder for the shards; made if it is missing.
        shard_megabytes: Size (10^6 bytes) above which a new shard begins.
        bitstreams: Pack the bitstreams instead of the decoded pictures.

    Raises:
        ValueError: If ``store_folder`` is no store.
        FileExistsError: If ``output`` holds shards already.
    """
    store = PairStore(store_folder)
    output.mkdir(parents=True, exist_ok=True)
    if any(output.glob("shard_*.zip")):
        raise FileExistsError(f"{output} holds shards already")
    shards: list[Path] = []
    entries: list[tuple[dict[str, object], bytes]] = []
    for original in track(store.originals.values(), desc="packing", unit="picture"):
        entries += _entries(store, original, bitstreams=bitstreams)
        if sum(len(data) for _, data in entries) > shard_megabytes * 1e6:
            shards.append(_write(output / f"shard_{len(shards):03d}.zip", entries))
            entries = []
    if entries:
        shards.append(_write(output / f"shard_{len(shards):03d}.zip", entries))
    return shards


def unpack(shards: list[Path], store_folder: Path, *, workers: int = 1) -> None:
    """Adds the pictures of ``shards`` to a store, new or not; ``workers`` processes decode bitstreams.

    Raises:
        ValueError: If a shard is damaged.
    """
    with PairWriter(store_folder) as writer, ProcessPoolExecutor(workers) as pool:
        for shard in track(shards, desc="unpacking", unit="shard"):
            try:
                _unpack(shard, writer, pool)
            except (zipfile.BadZipFile, KeyError, OSError, json.JSONDecodeError) as error:
                raise ValueError(f"{shard} is no whole shard: {error}") from error


def _entries(store: PairStore, original: Original, *, bitstreams: bool) -> Iterator[tuple[dict[str, object], bytes]]:
    yield asdict(original), _webp(store.image(original, original.offset))
    for pair in store.pairs:
        if pair.original == original.key:
            data = store.bitstream(pair) if bitstreams else _webp(store.image(original, pair.offset))
            yield asdict(pair), data


def _webp(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(image)).save(buffer, "WEBP", lossless=True, quality=50, exact=True)
    return buffer.getvalue()


def _write(path: Path, entries: list[tuple[dict[str, object], bytes]]) -> Path:
    partial = path.with_suffix(".part")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr("index.jsonl", "".join(json.dumps(entry) + "\n" for entry, _ in entries))
        for number, (_, data) in enumerate(entries):
            archive.writestr(f"{number:06d}", data)
    return partial.rename(path)


def _unpack(shard: Path, writer: PairWriter, pool: Executor) -> None:
    with zipfile.ZipFile(shard) as archive:
        entries = [json.loads(line) for line in archive.read("index.jsonl").decode().splitlines()]
        data = [archive.read(f"{number:06d}") for number in range(len(entries))]
    for entry, stored, image in zip(entries, data, pool.map(_decode, entries, data, chunksize=8), strict=True):
        if "key" in entry:
            original = Original(**entry)
            writer.add_original(original.key, original.source, original.name, image)
        else:
            pair = Pair(**entry)
            if (pair.original, pair.options, pair.qp) not in writer.done:
                bitstream = b"" if _is_lossless_webp(stored) else stored
                writer.add_pair(
                    pair.original, pair.codec, pair.options, pair.qp, pair.coded_qp, bitstream, image, pair.chroma
                )


def _decode(entry: dict[str, object], data: bytes) -> Pixels:
    """The 8-bit RGB picture of an entry, from lossless WebP or from the codec's bitstream."""
    if "key" in entry or _is_lossless_webp(data):
        return np.array(PillowImage.open(io.BytesIO(data)).convert("RGB"))
    from codec_wrappers import get_codec  # here: shards of pictures are unpacked without any codec

    return pixels_of(get_codec(str(entry["codec"])).decode(data))


def _is_lossless_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L"
