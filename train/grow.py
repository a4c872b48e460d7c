"""Starts a network from the weights of a smaller one."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from enhancer.network import RestorationNetwork

_MAY_DIFFER = ("blocks", "channels", "mean_bound", "jpeg_place")


def copy_weights(source: RestorationNetwork, target: RestorationNetwork) -> None:
    """Copies ``source`` into a fresh ``target`` that may have more blocks and more channels.

    The target, which may have another bound on local means, then computes what the source computes apart
    from that, whatever the condition: added blocks are the identity, and what is new in width reads the
    old channels but is not yet read by them (Chen et al., "Net2Net", ICLR 2016, arXiv:1511.05641, make a
    network wider by copies instead).

    Raises:
        ValueError: If the two differ in anything else, the target is smaller, or a spatial attention, which
            looks at all channels, would be widened.
    """
    old, new = source.config, target.config
    wider = new.channels > old.channels
    if (
        replace(old, **{name: getattr(new, name) for name in _MAY_DIFFER}) != new
        or new.blocks < old.blocks
        or new.channels < old.channels
        or (wider and new.attention in ("spatial", "both"))
    ):
        raise ValueError(f"{old} cannot start {new}: only blocks and channels may differ, and grow")
    grown, small = target.state_dict(), source.state_dict()
    for name in ("modulation.2.weight", "modulation.2.bias"):  # rows are blocks x channels
        inputs = small[name].shape[1:]
        rows = grown[name].view(new.blocks, new.channels, *inputs)
        rows[: old.blocks, : old.channels] = small.pop(name).view(old.blocks, old.channels, *inputs)
    for name, tensor in small.items():
        _place(tensor, grown[name])
    target.load_state_dict(grown)


def _place(tensor: Tensor, larger: Tensor) -> None:
    """Puts the weights of a layer into those of a wider one; old outputs ignore new inputs."""
    outputs = larger[: len(tensor)]
    outputs.zero_()
    if tensor.ndim > 1:
        outputs = outputs[:, : tensor.shape[1]]
    outputs.copy_(tensor)
