from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from enhancer import memory
from enhancer.memory import bytes_per_pixel, choose_tile, memory_budget
from enhancer.network import NetworkConfig


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    halo=st.integers(0, 12),
    multiple=st.sampled_from([1, 8, 16]),
    max_pixels=st.integers(1 << 10, 1 << 22),
)
def test_windows_keep_to_the_limit_if_any_tile_does(rows, columns, halo, multiple, max_pixels):
    height, width, context = rows * multiple, columns * multiple, halo * multiple

    tile = choose_tile(height, width, halo=context, multiple=multiple, max_pixels=max_pixels)

    window = [min(side + 2 * context, length) for side, length in zip(tile, (height, width), strict=True)]
    smallest = max(context // 2, multiple, 32) + multiple
    least = [min(smallest + 2 * context, length) for length in (height, width)]
    assert tile[0] % multiple == tile[1] % multiple == 0
    assert window[0] * window[1] <= max(max_pixels, least[0] * least[1] * 4)
    if height * width <= max_pixels:
        assert tile == (height, width)


def test_a_picture_is_cut_so_that_little_is_read_twice():
    """Two parts read 4100 columns, four 4300, which is no more than 5 % above; five would read 4400."""
    assert choose_tile(1000, 4000, halo=50, multiple=1, max_pixels=2_200_000) == (1000, 1000)
    assert choose_tile(4000, 1000, halo=50, multiple=1, max_pixels=2_200_000) == (1000, 1000)


def test_a_network_whose_halo_is_above_the_limit_still_gets_useful_tiles():
    tile = choose_tile(4000, 4000, halo=480, multiple=16, max_pixels=10_000)

    assert min(tile) >= 240


def test_wide_features_and_full_resolution_cost_memory():
    full, half = NetworkConfig(channels=64, unshuffle=1), NetworkConfig(channels=64, unshuffle=2)

    assert bytes_per_pixel(full) > 3 * bytes_per_pixel(half)


def test_a_tile_takes_a_share_of_what_is_free(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "_available_memory", lambda: 400 << 20)
    assert memory_budget(cpu) == 100 << 20
    monkeypatch.setattr(memory, "_available_memory", lambda: 64 << 30)
    assert memory_budget(cpu) == memory.CPU_BUDGET


def test_memory_that_torch_keeps_on_a_gpu_counts_as_free(monkeypatch):
    values = {"mem_get_info": (3 << 30, 80 << 30), "memory_reserved": 8 << 30, "memory_allocated": 1 << 30}
    for name, value in values.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)

    assert memory_budget(torch.device("cuda")) == 6 << 30


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(memory, "_meminfo", lambda: 8 << 30)
    monkeypatch.setattr(memory, "_cgroup", lambda: 1 << 30)
    assert memory._available_memory() == 1 << 30
    monkeypatch.setattr(memory, "_cgroup", lambda: None)
    monkeypatch.setattr(memory, "_meminfo", lambda: None)
    assert memory._available_memory() == 2 << 30
