"""Weights files of the learned codecs: found by model and by hash, checked before use. No torch in here.

A weights file is safetensors; its metadata hold ``format`` = ``enhancer-learned``, ``version``, ``config``
(JSON of :class:`~codec_wrappers.learned.models.ModelConfig`) and whatever training adds. A folder of them has a
manifest ``learned.toml`` with one table a file::

    [learned-msh-0130]
    file = "learned-msh-0130.safetensors"
    sha256 = "…"
    model = "msh"
    lambdas = [0.013]
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec_wrappers.errors import CodecError, CodecUnavailableError
from codec_wrappers.learned.container import DIGEST_BYTES

FORMAT = "enhancer-learned"
VERSION = 1
MANIFEST = "learned.toml"


class WeightsError(CodecError):
    """A weights file is missing, damaged, of another model or of a newer format."""


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that is known to exist, or is promised by a manifest.

    Attributes:
        name: Its name in the manifest, or of the file.
        path: Where it lies.
        model: Kind of model.
        lambdas: Rate-distortion weights that it was trained for.
        sha256: Of its content, hexadecimal.
    """

    name: str
    path: Path
    model: str
    lambdas: tuple[float, ...]
    sha256: str

    @property
    def digest(self) -> bytes:
        """What coded files say of the weights."""
        return bytes.fromhex(self.sha256)[:DIGEST_BYTES]

    def read(self) -> bytes:
        """The content.

        Raises:
            WeightsError: If the file cannot be read or has another hash.
        """
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise WeightsError(f"weights {self.path} are damaged: their SHA-256 is not the expected one")
        return data


def shipped_folder() -> Path:
    """Where the shipped weights lie: in the installed package ``enhancer``, or in the checkout."""
    parent = Path(__file__).parents[2]
    installed = parent / "enhancer" / "checkpoints"
    return installed if (installed / MANIFEST).is_file() else parent / "checkpoints"


def find_weights(model: str, where: str) -> tuple[WeightsFile, ...]:
    """Weights of ``model``, by rising (highest) lambda.

    Args:
        model: Kind of model.
        where: A weights file, a folder with a manifest, or empty for the shipped ones.

    Raises:
        WeightsError: If ``where`` is neither, or a file of another model.
    """
    path = Path(where) if where else shipped_folder()
    if path.is_file():
        found = [_single(path)]
        if found[0].model != model:
            raise WeightsError(f"{path} holds weights of {found[0].model}, not of {model}")
    elif (path / MANIFEST).is_file():
        found = [entry for entry in _manifest(path) if entry.model == model]
    elif where:
        raise WeightsError(f"{where} is neither a weights file nor a folder with a {MANIFEST}")
    else:
        found = []
    return tuple(sorted(found, key=lambda entry: entry.lambdas[-1:]))


def by_digest(found: tuple[WeightsFile, ...], digest: bytes, model: str) -> WeightsFile:
    """The file that a coded picture was made with.

    Raises:
        CodecUnavailableError: If it is not among ``found``.
    """
    for entry in found:
        if entry.digest == digest:
            return entry
    known = ", ".join(f"{entry.name} {entry.digest.hex()}" for entry in found) or "none"
    raise CodecUnavailableError(f"coded with weights {digest.hex()}… of {model}, not among those here: {known}")


def parse_metadata(data: bytes, path: Path) -> dict[str, str]:
    """Metadata of a safetensors file of this package; tensors are not looked at.

    Raises:
        WeightsError: If it is none, or of a newer version.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        if metadata["format"] != FORMAT:
            raise KeyError(FORMAT)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no weights file of a learned codec") from error
    if metadata.get("version") != str(VERSION):
        raise WeightsError(f"{path} has format version {metadata.get('version')}; this release reads {VERSION}")
    return dict(metadata)


def _single(path: Path) -> WeightsFile:
    data = _read(path)
    metadata = parse_metadata(data, path)
    try:
        config = json.loads(metadata["config"])
        model, lambdas = str(config["kind"]), tuple(float(value) for value in config["lambdas"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not say which model it is of") from error
    return WeightsFile(path.stem, path, model, lambdas, hashlib.sha256(data).hexdigest())


def _manifest(folder: Path) -> list[WeightsFile]:
    path = folder / MANIFEST
    try:
        tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())
        return [
            WeightsFile(name, folder / t["file"], t["model"], tuple(t.get("lambdas", ())), t["sha256"])
            for name, t in tables.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
