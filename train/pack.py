"""``python -m train pack``: a store -> self-contained shards that train elsewhere without any encoder.

A shard is an uncompressed zip of lossless WebP pictures and an ``index.jsonl`` as in the store (its
offsets count through the shard's pictures in order). ``unpack`` makes a store from shards again; it
needs numpy and Pillow only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from train.progress import track
from train.store import Original, Pair, PairStore, PairWriter, Pixels


def pack(store_folder: Path, output: Path, *, shard_megabytes: float) -> list[Path]:
    """Writes ``shard_000.zip`` … into ``output``; an original and all its pairs stay in one shard.

    Args:
        store_folder: Store to pack; bitstreams are left out.
        output: Folder for the shards; made if it is missing.
        shard_megabytes: Size (10^6 bytes) above which a new shard begins.

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
        entries += _entries(store, original)
        if sum(len(data) for _, data in entries) > shard_megabytes * 1e6:
            shards.append(_write(output / f"shard_{len(shards):03d}.zip", entries))
            entries = []
    if entries:
        shards.append(_write(output / f"shard_{len(shards):03d}.zip", entries))
    return shards


def unpack(shards: list[Path], store_folder: Path) -> None:
    """Adds the pictures of ``shards`` to a store, new or not.

    Raises:
        ValueError: If a shard is damaged.
    """
    with PairWriter(store_folder) as writer:
        for shard in track(shards, desc="unpacking", unit="shard"):
            try:
                _unpack(shard, writer)
            except (zipfile.BadZipFile, KeyError, OSError, json.JSONDecodeError) as error:
                raise ValueError(f"{shard} is no whole shard: {error}") from error


def _entries(store: PairStore, original: Original) -> Iterator[tuple[dict[str, object], bytes]]:
    yield asdict(original), _webp(store.image(original, original.offset))
    for pair in store.pairs:
        if pair.original == original.key:
            yield asdict(pair), _webp(store.image(original, pair.offset))


def _webp(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(image)).save(buffer, "WEBP", lossless=True, quality=50, exact=True)
    return buffer.getvalue()


def _write(path: Path, entries: list[tuple[dict[str, object], bytes]]) -> Path:
    partial = path.with_suffix(".part")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr("index.jsonl", "".join(json.dumps(entry) + "\n" for entry, _ in entries))
        for number, (_, data) in enumerate(entries):
            archive.writestr(f"{number:06d}.webp", data)
    return partial.rename(path)


def _unpack(shard: Path, writer: PairWriter) -> None:
    with zipfile.ZipFile(shard) as archive:
        for number, line in enumerate(archive.read("index.jsonl").decode().splitlines()):
            entry = json.loads(line)
            image = np.array(PillowImage.open(io.BytesIO(archive.read(f"{number:06d}.webp"))).convert("RGB"))
            if "key" in entry:
                original = Original(**entry)
                writer.add_original(original.key, original.source, original.name, image)
            else:
                pair = Pair(**entry)
                if (pair.original, pair.options, pair.qp) not in writer.done:
                    writer.add_pair(
                        pair.original, pair.codec, pair.options, pair.qp, pair.coded_qp, b"", image, pair.chroma
                    )
