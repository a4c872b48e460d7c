from __future__ import annotations

import pytest
from PIL import Image as PillowImage

from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import RateControlError
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.pictures import load_originals
from enhancer.evaluation.sources import parse_codec
from enhancer.evaluation.target import run_target
from tests.small_network import write_random_checkpoint
from tests.test_external_codec import COPY, external


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photograph):
    """Three crops of a photograph."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (top, left) in enumerate([(0, 0), (100, 80), (60, 250)]):
        PillowImage.fromarray(photograph[top : top + 120, left : left + 144]).save(folder / f"crop{i}.png")
    return folder


def test_target_keeps_to_the_budget_and_free_allocation_is_better(tmp_path, pictures):
    originals = load_originals(pictures)
    mix, free = run_target(
        originals, [parse_codec("jpeg")], 0.8, allocations=["mix", "psnr"], cache=EncodeCache(tmp_path)
    )

    pixels = sum(o.pixels for o in originals)
    for row in (mix, free):
        assert row.total_bytes == sum(p.byte_count for p in row.pictures) <= row.budget_bytes == int(0.8 * pixels / 8)
        assert row.bpp == pytest.approx(8 * row.total_bytes / pixels)
    assert len({p.qp for p in mix.pictures}) <= 2
    assert free.means["psnr"] > mix.means["psnr"]


def test_target_can_allocate_for_the_enhanced_quality(tmp_path, pictures):
    checkpoint = write_random_checkpoint(tmp_path / "small.safetensors")
    # Little of a random network's damage: quality must still rise with the rate, as it does with a trained one.
    enhancement = Enhancement(str(checkpoint), backend="torch", device="cpu", strength=0.02)
    originals = load_originals(pictures, 2)
    options = {"enhancements": [enhancement], "cache": EncodeCache(tmp_path / "cache")}

    plain = run_target(originals, [parse_codec("jpeg")], 0.8, allocations=["psnr"], **options)
    [chosen] = run_target(originals, [parse_codec("jpeg")], 0.8, allocations=["enhanced"], **options)

    assert [row.label for row in plain] == ["jpeg", "jpeg + small (strength 0.02)"]
    assert chosen.label == "jpeg + small (strength 0.02)"
    assert chosen.total_bytes <= chosen.budget_bytes
    assert plain[1].means["psnr"] != plain[0].means["psnr"]
    assert chosen.means["psnr"] >= plain[1].means["psnr"] - 1e-9


def test_a_stopped_table_goes_on_with_what_was_measured(tmp_path, pictures, monkeypatch):
    checkpoint = write_random_checkpoint(tmp_path / "small.safetensors")
    enhancement = Enhancement(str(checkpoint), backend="torch", device="cpu")
    originals = load_originals(pictures)
    apply, applied = Enhancement.apply, []

    def stop_at_the_third(self, coded):
        applied.append(coded)
        if len(applied) == 3:
            raise KeyboardInterrupt
        return apply(self, coded)

    monkeypatch.setattr(Enhancement, "apply", stop_at_the_third)
    options = {"enhancements": [enhancement], "cache": EncodeCache(tmp_path / "cache")}
    with pytest.raises(KeyboardInterrupt):
        run_target(originals, [parse_codec("jpeg")], 0.8, **options)

    _, first = run_target(originals, [parse_codec("jpeg")], 0.8, **options)
    _, second = run_target(originals, [parse_codec("jpeg")], 0.8, **options)

    assert len(applied) == 4
    assert second == first


def test_target_refuses_what_it_cannot_do(tmp_path, pictures):
    originals = load_originals(pictures, 1)
    with pytest.raises(ValueError, match="a model is needed"):
        run_target(originals, [parse_codec("jpeg")], 0.5, allocations=["enhanced"], cache=EncodeCache(tmp_path))
    with pytest.raises(ValueError, match="needs the range of qps"):
        run_target(originals, [parse_codec(external(COPY, COPY))], 0.5, cache=EncodeCache(tmp_path))
    with pytest.raises(RateControlError, match="out of reach"):
        run_target(originals, [parse_codec("jpeg")], 0.001, cache=EncodeCache(tmp_path))
