"""Starts a network from the weights of another one, which may have fewer blocks."""

from __future__ import annotations

from dataclasses import replace

from enhancer.network import RestorationNetwork


def copy_weights(source: RestorationNetwork, target: RestorationNetwork) -> None:
    """Copies ``source`` into the first blocks of a fresh ``target``; the blocks left are the identity.

    The target then computes what the source computes, whatever the condition.

    Raises:
        ValueError: If the two differ in more than the number of blocks, or the target has fewer.
    """
    blocks, more = source.config.blocks, target.config.blocks
    if replace(source.config, blocks=more) != target.config or more < blocks:
        raise ValueError(f"{source.config} cannot start {target.config}: only blocks may differ, and grow")
    grown = target.state_dict()
    for name, tensor in source.state_dict().items():
        # Rows of the modulation's last layer are blocks x channels: those of the new blocks stay zero.
        grown[name][: len(tensor)] = tensor
    target.load_state_dict(grown)
