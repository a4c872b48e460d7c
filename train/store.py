"""The pair store: originals and their decoded versions as flat uint8 pixels, with a JSON-lines index.

A store is a folder:

``pixels.u8``       RGB pixels of one picture after the other, row by row, 3 bytes a pixel;
``bitstreams.bin``  the bitstreams of the decoded pictures, one after the other;
``index.jsonl``     one :class:`Original` or :class:`Pair` a line, written after its data, so that a
                    store whose writer was killed is whole up to its last line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from codec_wrappers import Decoded  # stores, and shards of pictures, are read without any codec

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Original:
    """An original picture (or crop of one).

    Attributes:
        key: SHA-256 of its size and pixels.
        source: Data set that it comes from.
        name: File that it comes from.
        height: Rows.
        width: Columns.
        offset: Of its first byte in ``pixels.u8``.
    """

    key: str
    source: str
    name: str
    height: int
    width: int
    offset: int

    @property
    def is_validation(self) -> bool:
        """One file in ten; decided by its name, so that crops of one picture never part."""
        return sum(Path(self.name).stem.encode()) % 10 == 0


@dataclass(frozen=True)
class Pair:
    """A decoded version of an original.

    Attributes:
        original: Key of the original.
        codec: Registered name of the codec.
        options: Representation of the codec with all its encoder options.
        qp: Quality index given to the encoder.
        coded_qp: Quality index as the bitstream says it, or None.
        bytes: Length of the bitstream.
        bitstream_offset: Of its first byte in ``bitstreams.bin``.
        offset: Of the first decoded byte in ``pixels.u8``.
        chroma: Chroma format of the bitstream, ``420`` or another, or None.
    """

    original: str
    codec: str
    options: str
    qp: int
    coded_qp: float | None
    bytes: int
    bitstream_offset: int
    offset: int
    chroma: str | None = None


def pixels_of(decoded: Decoded) -> Pixels:
    """A decoded 8-bit picture: of HEIC and AVIF that which is restored, whose chroma is not that of the shown one."""
    finer = decoded.unrounded() if decoded.info.codec in ("heic", "avif") else None
    return decoded.image if finer is None else np.rint(finer / np.float32(257)).astype(np.uint8)


class PairStore:
    """Reads a store; ``pixels`` is mapped, not loaded.

    Raises:
        ValueError: If ``folder`` holds no store.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "index.jsonl").is_file():
            raise ValueError(f"{folder} is no pair store (index.jsonl is missing); `python -m train prepare` makes one")
        if not (folder / "pixels.u8").stat().st_size:
            raise ValueError(f"the pair store {folder} is empty")
        self.folder = folder
        self.originals: dict[str, Original] = {}
        self.pairs: list[Pair] = []
        for line in (folder / "index.jsonl").read_text().splitlines():
            if line.endswith("}"):  # a killed writer may leave half a line at the end
                self._add(json.loads(line))
        self.pixels: Pixels = np.memmap(
            folder / "pixels.u8", np.uint8, "c"
        )  # copy-on-write: torch wants writable memory; nothing is written

    def _add(self, entry: dict[str, Any]) -> None:
        if "key" in entry:
            self.originals[entry["key"]] = Original(**entry)
        else:
            self.pairs.append(Pair(**entry))

    def original(self, pair: Pair) -> Original:
        """The original of a pair."""
        return self.originals[pair.original]

    def image(self, picture: Original, offset: int) -> Pixels:
        """Pixels ``(H, W, 3)`` at ``offset``, of the size of ``picture``."""
        size = picture.height * picture.width * 3
        return self.pixels[offset : offset + size].reshape(picture.height, picture.width, 3)

    def bitstream(self, pair: Pair) -> bytes:
        """The bitstream that a pair was decoded from.

        Raises:
            ValueError: If the store came without bitstreams.
        """
        with (self.folder / "bitstreams.bin").open("rb") as file:
            file.seek(pair.bitstream_offset)
            data = file.read(pair.bytes)
        if not data:
            raise ValueError(f"{self.folder} holds no bitstreams (it was unpacked from shards without)")
        return data

    def split(self, *, validation: bool) -> list[Pair]:
        """Pairs whose original is (not) in the validation part, in index order.

        A small store, of which no file falls to validation by its name, gives its first one.
        """
        everything = sorted({original.name for original in self.originals.values()})
        names = {original.name for original in self.originals.values() if original.is_validation}
        if not names and len(everything) > 1:
            names = set(everything[:1])
        return [pair for pair in self.pairs if (self.original(pair).name in names) == validation]


def _locked(file: TextIO) -> bool:
    """Locks a file until it is closed; False if another process has. Where files know no locks, nothing is locked."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class PairWriter:
    """Appends to a store, new or not; a context manager. Whatever an earlier writer left half is cut off.

    Raises:
        ValueError: If another one is appending to the store.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pixels.u8", "bitstreams.bin"):
            (folder / name).touch()
        self._index = (folder / "index.jsonl").open("a")
        if not _locked(self._index):
            self._index.close()
            raise ValueError(f"another program is writing to {folder}")
        self._cut_partial_line(folder / "index.jsonl")
        store = PairStore(folder) if (folder / "pixels.u8").stat().st_size else None
        self.originals = dict(store.originals) if store else {}
        self.done = {(p.original, p.options, p.qp) for p in store.pairs} if store else set()
        self._pixels = (folder / "pixels.u8").open("ab")
        self._bitstreams = (folder / "bitstreams.bin").open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._pixels, self._bitstreams, self._index):
            file.close()

    @staticmethod
    def _cut_partial_line(index: Path) -> None:
        data = index.read_bytes()
        if not data.endswith(b"\n"):  # a reader, and a kill, must never find less than what is whole
            os.truncate(index, data.rfind(b"\n") + 1)

    def add_original(self, key: str, source: str, name: str, image: Pixels) -> None:
        """Stores an original once; later calls with the same key do nothing."""
        if key not in self.originals:
            height, width = image.shape[:2]
            original = Original(key, source, name, height, width, self._append(image))
            self.originals[key] = original
            self._write(original)

    def add_pair(
        self,
        original: str,
        codec: str,
        options: str,
        qp: int,
        coded_qp: float | None,
        bitstream: bytes,
        image: Pixels,
        chroma: str | None = None,
    ) -> None:
        """Stores a decoded version of the original with this key."""
        bitstream_offset = self._bitstreams.seek(0, 2)
        self._bitstreams.write(bitstream)
        offset = self._append(image)
        self._write(Pair(original, codec, options, qp, coded_qp, len(bitstream), bitstream_offset, offset, chroma))
        self.done.add((original, options, qp))

    def _append(self, image: Pixels) -> int:
        offset = self._pixels.seek(0, 2)
        self._pixels.write(np.ascontiguousarray(image).tobytes())
        return offset

    def _write(self, entry: Original | Pair) -> None:
        self._pixels.flush()
        self._bitstreams.flush()
        self._index.write(json.dumps(asdict(entry)) + "\n")
        self._index.flush()


def megapixels(originals: Iterable[Original]) -> float:
    """Total size in millions of pixels."""
    return sum(o.height * o.width for o in originals) / 1e6
