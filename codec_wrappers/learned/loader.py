"""The one way to CompressAI: imports the parts for image codecs, whatever else is missing or broken here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from codec_wrappers.errors import CodecUnavailableError

NEEDED = ("torch", "compressai", "scipy", "einops")
"""Modules that learned codecs need at run time."""

REMEDY = "install the extra [learned], and: pip install --no-deps compressai==1.2.8"


def missing_modules() -> tuple[str, ...]:
    """Those of :data:`NEEDED` that are not installed; imports none of them."""
    return tuple(name for name in NEEDED if name not in sys.modules and importlib.util.find_spec(name) is None)


def compressai_version() -> str:
    """Version of the installed CompressAI, or ``unknown``."""
    try:
        return version("compressai")
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def load_compressai() -> ModuleType:
    """Makes ``import compressai.models`` and its siblings work, and returns the package.

    ``compressai/__init__.py`` imports data sets and transforms, and with them torchvision,
    torch_geometric and pandas. No image codec uses these, and torchvision from PyPI does not load beside a
    CPU build of torch. So the package object is made without running that file: it gets the two functions
    that the entropy models ask it for, and an empty registry of transforms. After that ``entropy_models``,
    ``layers``, ``models``, ``ops`` and ``zoo`` import as usual. A CompressAI that was imported before by
    someone else is taken as it is.

    Raises:
        CodecUnavailableError: If a package is missing or cannot be loaded.
    """
    if missing := missing_modules():
        raise CodecUnavailableError(f"learned codecs need {', '.join(missing)}; {REMEDY}")
    if "compressai" not in sys.modules:
        _install_package_object()
    try:
        for name in ("ops", "entropy_models", "layers", "models"):
            importlib.import_module(f"compressai.{name}")
    except Exception as error:  # a broken binary may raise anything
        raise CodecUnavailableError(f"CompressAI cannot be imported ({error}); {REMEDY}") from error
    return sys.modules["compressai"]


def _install_package_object() -> None:
    spec = importlib.util.find_spec("compressai")
    if spec is None:
        raise CodecUnavailableError(f"learned codecs need compressai; {REMEDY}")
    package: Any = importlib.util.module_from_spec(spec)
    package.__version__ = compressai_version()
    package.available_entropy_coders = lambda: ["ans"]
    package.get_entropy_coder = lambda: "ans"
    sys.modules["compressai"] = package
    transforms: Any = ModuleType("compressai.registry.transforms")
    transforms.TRANSFORMS = {}
    transforms.register_transform = lambda _: lambda transform: transform
    sys.modules["compressai.registry.transforms"] = transforms
