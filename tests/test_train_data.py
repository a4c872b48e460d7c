"""Pairs: making, storing, packing and drawing them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from training import CONFIG, CPU, make_store

from codec_wrappers import get_codec
from codec_wrappers.errors import UnknownCodecError
from train.camera import as_from_a_camera
from train.config import DataSettings, Phase
from train.data import CropSampler
from train.pack import pack, unpack
from train.prepare import CodecPlan, PrepareSettings, crops_of, find_originals, prepare
from train.store import PairStore, PairWriter
from train.validation import centre


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def test_a_store_whose_writer_was_killed_is_whole_up_to_its_last_line(store, tmp_path):
    before = PairStore(store)
    for name in ("index.jsonl", "pixels.u8", "bitstreams.bin"):
        (tmp_path / name).write_bytes((store / name).read_bytes())
    with (tmp_path / "index.jsonl").open("a") as index:
        index.write('{"original": "0123", "cod')
    with (tmp_path / "pixels.u8").open("ab") as pixels:
        pixels.write(b"half a picture")

    new = np.full((40, 40, 3), 7, np.uint8)
    with PairWriter(tmp_path) as writer:
        writer.add_original("new", "set", "new.png", new)
    after = PairStore(tmp_path)

    assert after.pairs == before.pairs
    assert np.array_equal(after.image(after.originals["new"], after.originals["new"].offset), new)
    pair = after.pairs[3]
    assert np.array_equal(
        after.image(after.original(pair), pair.offset), before.image(before.original(pair), pair.offset)
    )


def test_crops_are_the_same_place_of_both_pictures_in_all_eight_orientations(tmp_path):
    rows, columns = np.mgrid[:48, :56].astype(np.uint8)
    with PairWriter(tmp_path) as writer:
        for codec, value in (("bpg", 1), ("jpeg", 2)):
            original, decoded = (np.stack([rows, columns, np.full_like(rows, v)], axis=2) for v in (value, 100 + value))
            writer.add_original(codec, "set", "a.png", original)
            writer.add_pair(codec, codec, "", 37, 37.0, b"", decoded)
    batch = CropSampler(PairStore(tmp_path), CONFIG, CPU).batch(step=0, samples=range(64), crop=32)

    x, target = (tensor.mul(255).round().int() for tensor in (batch.x, batch.target))

    assert torch.equal(x[:, :2], target[:, :2])  # the same rows and columns of the picture
    assert {place % 8 for place in target[:, :2].amin((2, 3)).flatten().tolist()} == {0}  # as tiles start
    assert torch.equal(x[:, 2], target[:, 2] + 100)  # a decoded picture and its own original
    down, right = (target[:, :2].diff(dim=dim).flatten(2) for dim in (2, 3))
    assert all((step == step[..., :1]).all() for step in (down, right))
    directions = {(*d.tolist(), *r.tolist()) for d, r in zip(down[..., 0], right[..., 0], strict=True)}
    assert directions == {
        *((a, 0, 0, b) for a in (-1, 1) for b in (-1, 1)),
        *((0, a, b, 0) for a in (-1, 1) for b in (-1, 1)),
    }


@pytest.mark.parametrize(
    ("sides", "crop", "place"), [((50, 61), 32, (8, 8)), ((90, 300), 64, (8, 112)), ((20, 9), 64, (0, 0))]
)
def test_the_middle_of_a_picture_lies_on_the_grid_of_its_blocks(sides, crop, place):
    image = np.stack(np.mgrid[: sides[0], : sides[1]], axis=2).astype(np.uint16)

    middle = centre(image, crop, 8)

    assert tuple(middle[0, 0]) == place
    assert middle.shape[:2] == tuple(min(crop, side) // 8 * 8 for side in sides)


def test_samples_do_not_depend_on_how_a_batch_is_shared_out(store):
    sampler = CropSampler(PairStore(store), CONFIG, CPU)

    whole = sampler.batch(5, range(6), 32)
    parts = [sampler.batch(5, part, 32) for part in (range(2), range(2, 6))]

    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.condition, torch.cat([part.condition for part in parts]))
    assert not torch.equal(whole.x, sampler.batch(6, range(6), 32).x)


def test_codecs_are_drawn_in_their_proportions_and_some_are_hidden(store):
    batch = CropSampler(PairStore(store), CONFIG, CPU).batch(0, range(600), 32)
    shares = batch.condition.mean(0)
    bpg, jpeg, unknown = (float(shares[CONFIG.codecs.index("bpg")]), float(shares[2]), float(shares[-4]))

    assert bpg / jpeg == pytest.approx(2, rel=0.3)
    assert unknown == pytest.approx(CONFIG.data.blind, abs=0.05)


def test_sources_come_in_their_proportions_however_many_pictures_they_have(tmp_path):
    with PairWriter(tmp_path) as writer:
        for number, source in enumerate(["DIV2K"] + 9 * ["DPED"] + ["other"]):
            image = np.full((40, 40, 3), {"DIV2K": 1, "DPED": 2, "other": 3}[source] * 10 + number, np.uint8)
            writer.add_original(str(number), source, f"{number}b.png", image)
            writer.add_pair(str(number), "bpg", "", 37, 37.0, b"", image)
    data = DataSettings(weights={"bpg": 1.0}, sources={"DIV2K": 3.0, "DPED": 1.0})
    store = PairStore(tmp_path)
    present = {store.original(pair).source for pair in store.split(validation=False)}

    x = CropSampler(store, replace(CONFIG, data=data), CPU).batch(0, range(800), 32).x[:, 0, 0, 0] * 255

    assert present == {"DIV2K", "DPED", "other"}
    assert x.max() < 30
    assert float((x < 20).float().mean()) == pytest.approx(0.75, abs=0.06)


def test_crops_know_the_error_of_their_whole_picture(tmp_path):
    half = np.zeros((48, 48, 3), np.uint8)
    half[24:] = 10
    with PairWriter(tmp_path) as writer:
        for name in ("b.png", "c.png"):
            writer.add_original(name, "set", name, np.zeros_like(half))
            writer.add_pair(name, "bpg", "", 37, 37.0, b"", half)
    phases = (Phase(steps=1, crop=32, loss="relative_mse"),)
    config = replace(CONFIG, phases=phases, data=DataSettings(weights={"bpg": 1.0}))

    batch = CropSampler(PairStore(tmp_path), config, CPU).batch(0, range(16), 32)

    assert batch.codec_mse.tolist() == pytest.approx(16 * [50 / 255**2])


def test_the_chroma_format_is_told_of_most_crops(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    with PairWriter(tmp_path) as writer:
        for name in ("a.png", "b.png"):
            writer.add_original(name, "set", name, image)
            writer.add_pair(name, "bpg", "", 37, 37.0, b"", image, "444")
    data = DataSettings(weights={"bpg": 1.0}, blind=0.0, no_chroma=0.25)

    batch = CropSampler(PairStore(tmp_path), replace(CONFIG, data=data), CPU).batch(0, range(400), 32)

    assert set(batch.condition[:, -3].tolist()) == {0.0, 1.0}
    assert float(batch.condition[:, -3].mean()) == pytest.approx(0.75, abs=0.06)


def test_a_codec_without_pairs_is_refused(store):
    config = replace(CONFIG, data=DataSettings(weights={"vvc": 1.0}))

    with pytest.raises(ValueError, match="no training pairs of vvc"):
        CropSampler(PairStore(store), config, CPU)


def test_shards_hold_the_whole_store_but_for_the_bitstreams(store, tmp_path):
    shards = pack(store, tmp_path / "shards", shard_megabytes=0.02)
    unpack(shards, tmp_path / "copy")
    before, after = PairStore(store), PairStore(tmp_path / "copy")

    assert len(shards) > 1
    assert [(p.original, p.codec, p.qp) for p in after.pairs] == [
        (p.original, p.codec, p.qp) for o in before.originals for p in before.pairs if p.original == o
    ]
    for pair in after.pairs:
        twin = next(p for p in before.pairs if (p.original, p.codec) == (pair.original, pair.codec))
        picture, twin_picture = after.original(pair), before.original(twin)
        assert np.array_equal(after.image(picture, pair.offset), before.image(twin_picture, twin.offset))
        assert np.array_equal(after.image(picture, picture.offset), before.image(twin_picture, twin_picture.offset))


def test_shards_of_bitstreams_are_decoded_to_the_same_pictures(tmp_path, photograph):
    PillowImage.fromarray(photograph[:64, :64]).save(tmp_path / "small.png")
    plans = tuple(map(CodecPlan.parse, ("jpeg@30", "webp@40", "bpg@40")))
    prepare([tmp_path], tmp_path / "store", PrepareSettings(plans), workers=1)

    shards = pack(tmp_path / "store", tmp_path / "shards", shard_megabytes=60, bitstreams=True)
    unpack(shards, tmp_path / "copy")

    before, after = PairStore(tmp_path / "store"), PairStore(tmp_path / "copy")
    assert shards[0].stat().st_size < 4 * 64 * 64 * 3
    for pair, twin in zip(before.pairs, after.pairs, strict=True):
        assert (pair.codec, pair.coded_qp, pair.chroma) == (twin.codec, twin.coded_qp, twin.chroma)
        picture, twin_picture = before.original(pair), after.original(twin)
        assert np.array_equal(before.image(picture, pair.offset), after.image(twin_picture, twin.offset))
        assert before.bitstream(pair) == after.bitstream(twin)


def test_bitstreams_of_a_store_without_them_cannot_be_packed(store, tmp_path):
    unpack(pack(store, tmp_path / "pictures", shard_megabytes=60), tmp_path / "copy")

    with pytest.raises(ValueError, match="holds no bitstreams"):
        pack(tmp_path / "copy", tmp_path / "shards", shard_megabytes=60, bitstreams=True)


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "shard_000.zip").write_bytes(b"PK no zip")

    with pytest.raises(ValueError, match=r"shard_000.zip is no whole shard"):
        unpack([tmp_path / "shard_000.zip"], tmp_path / "store")


def test_prepare_makes_each_pair_once_from_any_folder(tmp_path, photograph):
    source, folder = tmp_path / "photos", tmp_path / "store"
    (source / "deep").mkdir(parents=True)
    PillowImage.fromarray(photograph).save(source / "deep/cat.png")
    PillowImage.fromarray(photograph[:50, :60]).save(source / "small.png")
    settings = PrepareSettings((CodecPlan.parse("jpeg@10-30x2"), CodecPlan.parse("webp@40")), crop=96, crops=2)

    prepare([source], folder, settings, workers=1)
    first = PairStore(folder)
    prepare([source], folder, settings, workers=1)

    assert PairStore(folder).pairs == first.pairs
    assert [(o.height, o.width) for o in first.originals.values()] == [(96, 96), (96, 96), (50, 60)]
    assert len(first.pairs) == 9
    for pair in first.pairs:
        bitstream = (folder / "bitstreams.bin").read_bytes()[pair.bitstream_offset :][: pair.bytes]
        decoded = get_codec(pair.codec).decode(bitstream).image
        assert np.array_equal(decoded, first.image(first.original(pair), pair.offset))


def test_of_heic_files_the_picture_that_is_restored_is_stored(tmp_path, photograph):
    PillowImage.fromarray(photograph[:64, :64]).save(tmp_path / "small.png")
    prepare([tmp_path], tmp_path / "store", PrepareSettings((CodecPlan.parse("heic@60"),)), workers=1)

    store = PairStore(tmp_path / "store")

    (pair,) = store.pairs
    decoded = get_codec("heic").decode(store.bitstream(pair))
    stored = store.image(store.original(pair), pair.offset)
    assert np.abs(stored - decoded.unrounded() / 257).max() <= 0.5
    assert not np.array_equal(stored, decoded.image)


def test_a_grid_covers_the_whole_picture(photograph):
    image = photograph[:70, :101]
    settings = PrepareSettings((), crop=40, crops=0)

    parts = list(crops_of(image, "cat.png", settings))

    assert {part.shape for part in parts} == {(35, 34, 3), (35, 33, 3)}
    rows = [np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3)]
    assert np.array_equal(np.concatenate(rows, axis=0), image)


def test_scaled_crops_show_more_or_less_of_the_picture():
    rows, columns = np.mgrid[:200, :300]
    ramp = np.stack([rows, columns * 0.8, 0 * rows], axis=2).astype(np.uint8)

    def slopes(low, high, crops):
        settings = PrepareSettings((), crop=60, crops=crops, scales=(low, high))
        parts = [part.astype(float) for part in crops_of(ramp, "ramp.png", settings)]
        assert {part.shape for part in parts} == {(60, 60, 3)}
        assert all(np.array_equal(*pair) for pair in zip(parts, crops_of(ramp, "ramp.png", settings), strict=True))
        return [(part[50, :, 0].mean() - part[10, :, 0].mean()) / 40 for part in parts]

    assert slopes(0.5, 0.5, 1) == [pytest.approx(2.0, abs=0.05)]
    assert slopes(2.0, 2.0, 1) == [pytest.approx(0.5, abs=0.05)]
    several = slopes(0.6, 1.25, 8)
    assert 0.75 < min(several) < 1 < max(several) < 1.7


def test_scaling_makes_pictures_smaller_than_the_crop_if_there_is_no_more(photograph):
    settings = PrepareSettings((), crop=100, crops=2, scales=(0.5, 0.5))
    assert [part.shape for part in crops_of(photograph[:80, :120], "small.png", settings)] == [(40, 60, 3)] * 2


@pytest.mark.parametrize(("scales", "crops"), [((0.0, 1.0), 1), ((1.2, 0.8), 1), ((0.5, 1.0), 0)])
def test_scales_that_make_no_sense_are_refused(scales, crops):
    with pytest.raises(ValueError, match="scale"):
        PrepareSettings((), crops=crops, scales=scales)


def test_grain_is_as_strong_as_asked_for():
    image = np.full((64, 64, 3), 128, np.uint8)

    grainy = [
        as_from_a_camera(image, np.random.default_rng(seed), grain=8.0, soft_chroma=0.0).astype(float)
        for seed in range(20)
    ]

    strengths = [noise.std() for noise in grainy]
    assert 0.15 * 8 - 0.3 < min(strengths) < 4 < max(strengths) < 8.3
    assert all(abs(noise.mean() - 128) < 1 for noise in grainy)


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_soft_chroma_leaves_luma(photograph, size):
    image = photograph[100 : 100 + size[0], 100 : 100 + size[1]]
    soft = as_from_a_camera(image, np.random.default_rng(0), grain=0.0, soft_chroma=1.0)
    untouched = as_from_a_camera(image, np.random.default_rng(0), grain=0.0, soft_chroma=0.0)

    def detail(picture, weights):
        return np.abs(np.diff(picture.astype(float) @ weights, axis=1)).mean()

    assert soft.shape == image.shape
    assert np.array_equal(untouched, image)
    luma, red_difference = np.array([0.299, 0.587, 0.114]), np.array([0.701, -0.587, -0.114])
    assert detail(soft, luma) == pytest.approx(detail(image, luma), rel=0.02)
    assert detail(soft, red_difference) < 0.97 * detail(image, red_difference)  # which has been 4:2:0 before


def test_soft_chroma_stays_in_place_and_lies_elsewhere_each_time():
    rows, columns = np.mgrid[:40, :61]
    smooth = np.stack([128 + 60 * np.sin(rows / 9), np.full(rows.shape, 128), 128 + 60 * np.cos(columns / 11)], axis=2)
    sharp = np.zeros((40, 61, 3), np.uint8)
    sharp[:, 30:, 0] = 200

    def soft(image, seed):
        return as_from_a_camera(image, np.random.default_rng(seed), grain=0.0, soft_chroma=1.0).astype(int)

    for seed in range(12):
        inner = np.s_[4:-4, 4:-4]
        assert np.abs(soft(np.rint(smooth).astype(np.uint8), seed) - smooth)[inner].max() < 2.5
    edges = {tuple(soft(sharp, seed)[20, 24:36, 0]) for seed in range(12)}
    assert len(edges) == 12


def test_prepared_grain_is_the_same_each_time(tmp_path, photograph):
    PillowImage.fromarray(photograph[:64, :64]).save(tmp_path / "small.png")
    settings = PrepareSettings((CodecPlan.parse("jpeg@30"),), grain=5.0, soft_chroma=0.5)

    for folder in ("one", "two"):
        prepare([tmp_path], tmp_path / folder, settings, workers=1)

    one, two = (PairStore(tmp_path / folder) for folder in ("one", "two"))
    assert list(one.originals) == list(two.originals)


def test_the_originals_of_a_store_can_get_further_pairs(store, tmp_path):
    settings = PrepareSettings((CodecPlan.parse("webp@40"),))

    prepare([store], tmp_path, settings, workers=1)
    prepare([tmp_path], tmp_path, PrepareSettings((CodecPlan.parse("jpeg@40"),)), workers=1)

    before, after = PairStore(store), PairStore(tmp_path)
    assert [(o.key, o.source, o.name) for o in after.originals.values()] == [
        (o.key, o.source, o.name) for o in before.originals.values()
    ]
    assert [pair.codec for pair in after.pairs] == 6 * ["webp"] + 6 * ["jpeg"]


def test_div2k_and_dped_layouts_are_known(tmp_path):
    for name in ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X2/0001x2.png"):
        (tmp_path / "DIV2K" / name).parent.mkdir(parents=True)
        (tmp_path / "DIV2K" / name).touch()
    for name in ("iphone/training_data/iphone/0.jpg", "iphone/training_data/canon/0.jpg"):
        (tmp_path / "DPED" / name).parent.mkdir(parents=True)
        (tmp_path / "DPED" / name).touch()

    assert [path.name for path in find_originals(tmp_path / "DIV2K")] == ["0001.png"]
    assert [path.parent.name for path in find_originals(tmp_path / "DPED")] == ["canon"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        find_originals(tmp_path / "empty")


@pytest.mark.parametrize("text", ["bpg", "bpg@", "bpg@20-", "gif@1", "bpg,chroma=410@30", "bpg,speed=3@30", "bpg@60"])
def test_a_wrong_codec_plan_is_refused(text):
    with pytest.raises((ValueError, UnknownCodecError)):
        CodecPlan.parse(text)


def test_a_codec_plan_spreads_its_qps():
    plan = CodecPlan.parse("bpg,chroma=444@20-47x4")

    drawn = plan.draw(np.random.default_rng(0))

    assert plan.codec == get_codec("bpg", chroma="444")
    assert [(qp - 20) // 7 for qp in drawn] == [0, 1, 2, 3]


def test_a_store_of_few_files_still_has_both_parts(tmp_path):
    with PairWriter(tmp_path) as writer:
        for name in ("b.png", "c.png"):  # neither falls to validation by its name
            image = np.full((40, 40, 3), ord(name[0]), np.uint8)
            writer.add_original(name, "set", name, image)
            writer.add_pair(name, "bpg", "", 37, 37.0, b"", image)
    store = PairStore(tmp_path)

    assert not any(original.is_validation for original in store.originals.values())
    assert [pair.original for pair in store.split(validation=True)] == ["b.png"]
    assert [pair.original for pair in store.split(validation=False)] == ["c.png"]


def test_two_writers_of_one_store_are_one_too_many(tmp_path):
    with PairWriter(tmp_path), pytest.raises(ValueError, match="another program is writing"):
        PairWriter(tmp_path)


def test_a_store_is_whole_at_any_time_for_its_readers(store):
    before = (store / "index.jsonl").stat()

    with PairWriter(store):
        opened = (store / "index.jsonl").stat()

    assert (opened.st_mtime_ns, opened.st_size) == (before.st_mtime_ns, before.st_size)


def test_an_empty_store_says_so(tmp_path):
    with PairWriter(tmp_path):
        pass
    with pytest.raises(ValueError, match="is empty"):
        PairStore(tmp_path)


def test_pictures_of_a_store_are_not_scaled(store, tmp_path):
    settings = PrepareSettings((CodecPlan.parse("jpeg@30"),), scales=(0.5, 1.0))

    with pytest.raises(ValueError, match="cannot be scaled"):
        prepare([store], tmp_path / "new", settings, workers=1)

    assert not (tmp_path / "new").exists()
