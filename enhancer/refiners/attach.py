"""Attaches refiners to a learned image codec, by hooks alone: the model's modules stay what they are.

Works on every model whose ``forward`` and ``decompress`` call a submodule ``g_s`` exactly once, latent
first, and whose ``compress`` never does: all image models of CompressAI, and those built like them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from enhancer.refiners.base import Context, Refiner
from enhancer.refiners.networks import PictureQECM
from enhancer.refiners.qecm import FourierQECM

_ATTRIBUTE = "_attached_refiners"


class Attachment:
    """Refiners on a model; ends with :meth:`detach`, or at the end of a ``with`` block.

    Attributes:
        model: The codec.
        refiners: What is attached, in order.
    """

    def __init__(self, model: nn.Module, refiners: Sequence[Refiner], feature_index: int) -> None:
        self.model = model
        self.refiners = nn.ModuleList(refiners).to(next(model.parameters()).device)
        self.feature_index = feature_index
        self._context = Context()
        self._latent: Tensor | None = None  # what the entropy model returned last
        self._handles: list[RemovableHandle] = []
        self._gaussian: nn.Module | None = None
        self._original = part(model, "g_s")

    def install(self, decoder: Mapping[str, Tensor] | None) -> None:
        """Sets all hooks; called once, by :func:`attach`."""
        if decoder is not None:
            tuned = deepcopy(self._original)
            tuned.load_state_dict(decoder)
            self.model.g_s = tuned
        self._hook_decoder()
        for refiner in self._all():
            if isinstance(refiner, FourierQECM):
                self._hook_quantisers(refiner)
            if isinstance(refiner, PictureQECM):  # forward: without the hooks, or it would be asked again
                refiner.transforms = self.decoder.forward, part(self.model, "g_a")
        if any(refiner.needs_context for refiner in self._all()):
            self._capture_context()  # last: it notes what the quantisers' hooks made of the latent

    @property
    def decoder(self) -> nn.Module:
        """The ``g_s`` in use: the model's own, or a copy with other weights."""
        return part(self.model, "g_s")

    def synthesise(self, latent: Tensor, context: Context, *more: Any) -> Tensor:
        """The refined picture of a decoded latent, not clamped, as the decoder would make it.

        Args:
            latent: What the decoder hands to ``g_s``.
            context: Its means and scales.
            more: Further arguments of ``g_s``, for models that have any.
        """
        self._context, self._latent = context, latent
        picture: Tensor = self.decoder(latent, *more)
        return picture

    def features(self, latent: Tensor) -> Tensor:
        """The input of the layer of ``g_s`` before which features are refined, without any refiner.

        Raises:
            ValueError: If ``g_s`` is not a plain sequence of layers.
        """
        if not isinstance(self.decoder, nn.Sequential):
            raise ValueError("features of a latent are known only where g_s is a sequence of layers")
        for layer in list(self.decoder)[: self.feature_index]:
            latent = layer(latent)
        return latent

    def detach(self) -> None:
        """Takes the refiners off; the model is then what it was. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._gaussian is not None:
            vars(self._gaussian).pop("decompress", None)
        if self._original is not part(self.model, "g_s"):
            self.model.g_s = self._original
        for refiner in self._all():
            if isinstance(refiner, PictureQECM):
                refiner.transforms = None
        vars(self.model).pop(_ATTRIBUTE, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _all(self, point: str | None = None) -> list[Refiner]:
        return [r for r in self.refiners if isinstance(r, Refiner) and point in (None, r.point)]

    def _refine(self, point: str, t: Tensor) -> Tensor:
        for refiner in self._all(point):
            t = refiner(t, self._context)
        return t

    def _hook_decoder(self) -> None:
        def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            self._check_context(inputs[0])
            return self._refine("latent", inputs[0]), *inputs[1:]

        def between(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return self._refine("feature", inputs[0]), *inputs[1:]

        def after(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            picture = self._refine("pixel", output)
            self._context, self._latent = Context(), None
            return picture

        layer = feature_layer(self.model, self.feature_index)
        self._handles += [
            self.decoder.register_forward_pre_hook(before),
            layer.register_forward_pre_hook(between),
            self.decoder.register_forward_hook(after),
        ]

    def _check_context(self, latent: Tensor) -> None:
        """Refuses means and scales that are not those of ``latent``: a model may rescale it on the way."""
        if any(refiner.needs_context for refiner in self._all()):
            seen = self._latent
            if seen is None or (seen is not latent and not (seen.shape == latent.shape and torch.equal(seen, latent))):
                raise ValueError("g_s gets another latent than the entropy model gave: use refiners without context")

    def _capture_context(self) -> None:
        """Notes means and scales on every way through the entropy model, forward and decoding."""
        if hasattr(self.model, "context_prediction"):
            raise ValueError("an autoregressive model has no means and scales at once: use refiners without context")
        gaussian: Any = part(self.model, "gaussian_conditional")
        self._gaussian = gaussian
        decompress = gaussian.decompress

        def after(
            _: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: tuple[Tensor, Tensor]
        ) -> None:
            scales = inputs[1] if len(inputs) > 1 else keywords["scales"]
            self._note(output[0], gaussian.build_indexes(scales), _means(inputs, keywords))

        def decompressing(
            strings: Any, indexes: Tensor, dtype: torch.dtype = torch.float, means: Tensor | None = None
        ) -> Tensor:
            latent: Tensor = decompress(strings, indexes, dtype, means)
            self._note(latent, indexes, means)
            return latent

        self._handles.append(gaussian.register_forward_hook(after, with_kwargs=True))
        gaussian.decompress = decompressing

    def _note(self, latent: Tensor, indexes: Tensor, means: Tensor | None) -> None:
        table: Any = part(self.model, "gaussian_conditional").scale_table
        if not len(table):
            raise ValueError("the model's scale table is empty: call its update() first")
        mu = torch.zeros_like(latent) if means is None else means.expand_as(latent)
        self._context, self._latent = Context(mu, table[indexes.long()]), latent

    def _hook_quantisers(self, qecm: FourierQECM) -> None:
        """Puts the blocks of ``qecm`` around both quantisers, for models in training mode."""

        def before(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            if not module.training:
                return None
            mean = _quantiser_mean(module, inputs, keywords)
            return (qecm.before_quantiser(inputs[0], mean), *inputs[1:]), keywords

        def after(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
            if not module.training:
                return None
            mean = _quantiser_mean(module, inputs, keywords)
            return qecm.after_quantiser(output[0], mean), *output[1:]

        for name in ("entropy_bottleneck", "gaussian_conditional"):
            if isinstance(module := getattr(self.model, name, None), nn.Module):
                self._handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after, with_kwargs=True),
                ]


def attach(
    model: nn.Module,
    refiners: Sequence[Refiner],
    *,
    decoder: Mapping[str, Tensor] | None = None,
    feature_index: int = -1,
) -> Attachment:
    """Makes ``model.forward`` and ``model.decompress`` give refined pictures; encoding stays as it is.

    Args:
        model: A learned codec (see the module).
        refiners: Applied in order at their points; moved to the model's device. May be empty.
        decoder: Other weights for ``g_s``; the model's own come back on :func:`detach`.
        feature_index: Which child of ``g_s`` the refined features go into; -1 is the last upsampling.

    Raises:
        ValueError: If refiners are attached already, the model has no ``g_s``, or a refiner needs means
            and scales that the model does not tell.
    """
    if _ATTRIBUTE in vars(model):
        raise ValueError("this model has refiners attached already; detach them first")
    attachment = Attachment(model, refiners, feature_index)
    try:
        attachment.install(decoder)
    except BaseException:
        attachment.detach()
        raise
    vars(model)[_ATTRIBUTE] = attachment  # not an attribute of the module: it must not enter its state
    return attachment


def detach(model: nn.Module) -> None:
    """Undoes :func:`attach`; does nothing to a model without refiners."""
    attachment = vars(model).get(_ATTRIBUTE)
    if isinstance(attachment, Attachment):
        attachment.detach()


def part(model: nn.Module, name: str) -> nn.Module:
    """The submodule ``name`` of a codec.

    Raises:
        ValueError: If it has none.
    """
    if not isinstance(found := getattr(model, name, None), nn.Module):
        raise ValueError(f"{type(model).__name__} has no {name}")
    return found


def feature_layer(model: nn.Module, index: int = -1) -> nn.Module:
    """The child of ``g_s`` whose input is the ``feature`` point.

    Raises:
        ValueError: If ``g_s`` has no such child.
    """
    children = list(part(model, "g_s").children())
    try:
        return children[index]
    except IndexError as error:
        raise ValueError(f"g_s has {len(children)} layers, none with index {index}") from error


def input_channels(module: nn.Module) -> int:
    """Channels that the first convolution of ``module`` reads.

    Raises:
        ValueError: If it has no convolution.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return layer.in_channels
    raise ValueError(f"{type(module).__name__} has no convolution")


def _means(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    means: Tensor | None = inputs[2] if len(inputs) > 2 else keywords.get("means")
    return means


def _quantiser_mean(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """What a quantiser takes off before it rounds: medians of a bottleneck, means of a Gaussian."""
    quantiles = getattr(module, "quantiles", None)
    if isinstance(quantiles, Tensor):
        return quantiles[:, 0, 1].detach().view(1, -1, 1, 1)
    return _means(inputs, keywords)
