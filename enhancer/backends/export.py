"""Export of a network as an ONNX model with dynamic batch, height and width, and a cache of such models.

A runtime that computes all layers in bfloat16 rounds the picture, and the weights that find its faint errors, to 8
bits. For such a one the first layer is exported so that it takes both as sums of two numbers (:func:`in_parts`).
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import warnings
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from enhancer.checkpoint import Checkpoint
from enhancer.errors import EnhancerError
from enhancer.files import write_atomically
from enhancer.network import RestorationNetwork
from enhancer.quantization import quantized, stored_ranges

OPSET = 17
INPUTS = ("x", "condition")
OUTPUT = "restored"


class InParts(nn.Module):
    """The correction of ``network`` for a picture given :func:`in_parts`."""

    def __init__(self, network: RestorationNetwork) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.network.head = _HeadInParts(network.head)  # type: ignore[assignment]  # called as the convolution is

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.network.correction(x, condition)


class _HeadInParts(nn.Module):
    """The convolution ``head`` for planes in two parts: (a + b)(w + v) without bv, less than a 2^-16th of it."""

    def __init__(self, head: nn.Conv2d) -> None:
        super().__init__()
        w, v = in_parts(head.weight.detach()).chunk(2, 1)
        self.conv = nn.Conv2d(3 * head.in_channels, head.out_channels, head.kernel_size, padding=head.padding)  # type: ignore[arg-type]
        self.conv.load_state_dict({"weight": torch.cat([w, w, v], 1), "bias": head.bias})

    def forward(self, planes: Tensor) -> Tensor:
        a, b = planes.chunk(2, 1)
        y: Tensor = self.conv(torch.cat([a, b, a], 1))
        return y


def in_parts(x: Tensor) -> Tensor:
    """``(N, C, …)`` as ``(N, 2C, …)``: each value rounded to bfloat16, then what that left."""
    rounded = x.to(torch.bfloat16).to(x.dtype)
    return torch.cat([rounded, x - rounded], 1)


def to_onnx(checkpoint: Checkpoint, *, int8: bool = False, parts: bool = False) -> bytes:
    """The network as an ONNX model: float32, or with a trunk of 8 bits.

    Inputs are ``x`` ``(N, 3, H, W)`` and ``condition`` ``(N, K)``, the output is ``restored``, all as
    in :class:`enhancer.network.RestorationNetwork`; N, H and W are free. With ``parts``, ``x`` is
    ``(N, 6, H, W)`` as :func:`in_parts` makes it, and the output is what is to be added to the picture.

    Raises:
        CheckpointError: If ``int8`` is asked for and the checkpoint was not calibrated.
    """
    network = checkpoint.network
    side = 2 * network.multiple
    example = (torch.rand(1, 6 if parts else 3, side, side), torch.zeros(1, checkpoint.config.condition))
    axes = {"x": {0: "n", 2: "h", 3: "w"}, "condition": {0: "n"}, OUTPUT: {0: "n", 2: "h", 3: "w"}}
    if int8:
        network = quantized(network, stored_ranges(checkpoint))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter based on torch.export needs one more package (onnxscript) and brings nothing here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            InParts(network) if parts else network,
            example,
            buffer,  # type: ignore[arg-type]  # the stubs know only paths; with dynamo=False a buffer serves
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def with_properties(checkpoint: Checkpoint, properties: dict[str, str], *, int8: bool = False) -> bytes:
    """The model of :func:`to_onnx` with ``properties`` in its metadata."""
    import onnx

    model = onnx.load_from_string(to_onnx(checkpoint, int8=int8))
    onnx.helper.set_model_props(model, properties)
    data: bytes = model.SerializeToString()
    return data


def cached_onnx(checkpoint: Checkpoint, *, int8: bool = False, parts: bool = False) -> bytes:
    """Like :func:`to_onnx`, from the cache folder if this network has been exported like this before."""
    folder = cache_folder()
    if folder is None:
        return to_onnx(checkpoint, int8=int8, parts=parts)
    path = folder / f"{_digest(checkpoint, int8=int8, parts=parts)}.onnx"
    with suppress(OSError):
        return path.read_bytes()
    model = to_onnx(checkpoint, int8=int8, parts=parts)
    with suppress(EnhancerError):  # a full disk costs the cache, not the picture
        write_atomically(path, model, overwrite=True)
    return model


def cache_folder() -> Path | None:
    """Where compiled models are kept: ``$ENHANCER_CACHE`` or the user's cache folder; None if not writable.

    An empty ``$ENHANCER_CACHE`` turns the cache off.
    """
    chosen = os.environ.get("ENHANCER_CACHE")
    if chosen == "":
        return None
    folder = Path(chosen) if chosen else _user_cache() / "enhancer"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _digest(checkpoint: Checkpoint, *, int8: bool, parts: bool) -> str:
    """Hash of everything that the exported model depends on."""
    ranges = stored_ranges(checkpoint) if int8 else None
    form = f"{checkpoint.config} opset {OPSET} torch {torch.__version__} int8 {ranges} parts {parts}"
    digest = hashlib.sha256(form.encode())
    for name, values in sorted(checkpoint.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
