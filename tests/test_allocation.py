"""One budget for several pictures, against trying everything; the manifest; workers that fail or are stopped."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from synthetic_codec import CurveCodec, KnoblessCodec, TinyJpegCodec, flat, textured

from codec_wrappers.allocation import allocate
from codec_wrappers.coding_jobs import CodingJob, code
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import CodecError, RateControlError
from codec_wrappers.manifest import manifest_csv, manifest_json


@pytest.fixture
def cache(tmp_path):
    return EncodeCache(tmp_path / "cache")


def read(path: Path):
    return np.asarray(PillowImage.open(path).convert("RGB"))


def negative_error(original, decoded):
    return -float(np.abs(original.astype(float) - decoded).mean())


def table_of(codec, images):
    """Sizes and PSNRs of all pictures at all qps, (pictures, qps), cheapest qp first."""
    sizes, psnrs = [], []
    for image in images:
        streams = [codec.encode(image, qp) for qp in codec.qp_range.by_rate()]
        errors = [np.mean((codec.decode(s).image / 255.0 - image / 255.0) ** 2) for s in streams]
        sizes.append([len(s) for s in streams])
        psnrs.append([-10 * math.log10(e) if e else 100.0 for e in errors])
    return np.array(sizes), np.array(psnrs)


def budget_at(sizes, position, share=0.4):
    """A budget between the whole set at one qp and at the next finer one."""
    low, high = sizes[:, position].sum(), sizes[:, position + 1].sum()
    return int(low + share * (high - low))


def bpp_of(budget, images):
    return 8 * budget / sum(image.shape[0] * image.shape[1] for image in images)


@settings(max_examples=25)
@given(
    samples=st.lists(st.integers(20, 110), min_size=1, max_size=8),
    position=st.integers(5, 45),
    share=st.floats(0.05, 0.95),
    bump=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 99),
)
def test_mixture_of_two_qps_is_the_best_there_is(tmp_path_factory, samples, position, share, bump, seed):
    codec = KnoblessCodec(floor_bytes=900, bump=bump, seed=seed)
    images = [flat(sample) for sample in samples]
    sizes = np.array([[codec.rate(qp, sample) for qp in codec.qp_range.by_rate()] for sample in samples])
    budget = budget_at(sizes, position, share)

    result = allocate(codec, images, bpp_of(budget, images), cache=EncodeCache(tmp_path_factory.mktemp("cache")))

    positions = sorted({51 - picture.qp for picture in result.pictures})
    assert result.total_bytes == sum(len(codec.encode(i, p.qp)) for i, p in zip(images, result.pictures, strict=True))
    assert result.total_bytes <= result.budget_bytes == budget
    assert positions in ([position], [position, position + 1], [position + 1])
    pairs = np.sort(sizes[:, position : position + 2], axis=1)
    best = max(sum(c) for c in itertools.product(*pairs) if sum(c) <= budget)
    assert result.total_bytes == best


def test_mixture_of_a_set_uses_999_per_mille_of_the_budget(cache):
    codec = KnoblessCodec(floor_bytes=900)
    images = [flat(sample) for sample in range(50, 74)]
    result = allocate(codec, images, 2.1, cache=cache)

    assert 0.999 * result.budget_bytes <= result.total_bytes <= result.budget_bytes == int(2.1 * 24 * 64 * 64 / 8)
    assert len({picture.qp for picture in result.pictures}) == 2


@pytest.mark.parametrize("objective", ["psnr", "mse"])
@pytest.mark.parametrize("seed", range(6))
def test_optimum_is_as_good_as_trying_everything(cache, objective, seed):
    generator = np.random.default_rng(seed)
    codec = KnoblessCodec(floor_bytes=900, bump=0.01, seed=seed)
    images = [flat(int(s), h) for s, h in zip(generator.integers(20, 110, 3), (40, 64, 90), strict=True)]
    sizes, psnrs = table_of(codec, images)
    pixels = np.array([image.shape[0] * image.shape[1] for image in images])[:, None]
    values = psnrs if objective == "psnr" else -(10 ** (-psnrs / 10)) * pixels
    budget = budget_at(sizes, int(generator.integers(12, 30)))

    result = allocate(codec, images, bpp_of(budget, images), objective, cache=cache)

    chosen = [51 - picture.qp for picture in result.pictures]
    total = sizes[0][:, None, None] + sizes[1][:, None] + sizes[2]
    worth = values[0][:, None, None] + values[1][:, None] + values[2]
    best = worth[total <= budget].max()
    assert result.total_bytes == sum(sizes[i, p] for i, p in enumerate(chosen)) <= budget
    assert sum(values[i, p] for i, p in enumerate(chosen)) >= best - 0.02 * abs(best)
    assert result.encodes < 3 * 30  # of 3 * 52


def test_psnr_objective_beats_the_mixture_on_a_real_encoder_at_the_same_budget(cache):
    images = [textured(seed, 80, 96) for seed in range(6)]

    mix = allocate(TinyJpegCodec(), images, 1.2, cache=cache)
    psnr = allocate(TinyJpegCodec(), images, 1.2, "psnr", cache=cache)

    def mean_psnr(result):
        return np.mean([picture.metrics["psnr"] for picture in result.pictures])

    assert psnr.total_bytes <= psnr.budget_bytes == mix.budget_bytes
    assert psnr.total_bytes >= 0.995 * psnr.budget_bytes
    assert mean_psnr(psnr) > mean_psnr(mix) + 0.2


def test_mse_objective_has_the_least_squared_error(cache):
    images = [textured(seed, 80, 96) for seed in range(6)]

    results = {name: allocate(TinyJpegCodec(), images, 1.2, name, cache=cache) for name in ("mix", "psnr", "mse")}

    errors = {k: sum(10 ** (-p.metrics["psnr"] / 10) for p in v.pictures) for k, v in results.items()}
    assert errors["mse"] < errors["mix"]
    assert errors["mse"] < errors["psnr"]


def test_measure_of_the_caller_decides_and_is_reported(cache):
    images = [flat(30), flat(60), flat(110)]

    result = allocate(KnoblessCodec(floor_bytes=900), images, 3.0, "ms_ssim", measure=negative_error, cache=cache)

    for image, picture in zip(images, result.pictures, strict=True):
        decoded = KnoblessCodec().decode(KnoblessCodec().encode(image, picture.qp)).image
        assert picture.metrics["ms_ssim"] == negative_error(image, decoded)
        assert set(picture.metrics) == {"psnr", "ms_ssim"}


def test_fine_knob_spends_what_two_qps_leave(cache):
    codec, image = CurveCodec(floor_bytes=900), flat(100)
    size = codec.rate(30, 100)
    budget = round(1.06 * size)

    result = allocate(codec, [image], bpp_of(budget, [image]), cache=cache)

    assert 0.998 * budget <= result.total_bytes <= budget
    assert result.pictures[0].codec.lambda_scale < 1
    assert result.bitstream(0) == result.pictures[0].codec.encode(image, result.pictures[0].qp)


def test_expensive_codec_is_located_by_its_probe(cache, tmp_path):
    codec = KnoblessCodec(floor_bytes=900, probe_ratio=0.93, log=str(tmp_path / "log"))
    images = [flat(sample) for sample in range(60, 70)]

    result = allocate(codec, images, 2.0, cache=cache)

    full = sum(1 for path in cache.folder.rglob("*") if path.is_file()) - 0
    assert result.total_bytes <= result.budget_bytes
    assert all(picture.codec == codec for picture in result.pictures)
    assert full <= 80


@pytest.mark.parametrize(("bpp", "message"), [(0.05, "takes at least 0.1094 bpp"), (900.0, "takes at most")])
def test_budget_out_of_reach_is_an_error_that_names_the_end(cache, bpp, message):
    with pytest.raises(RateControlError, match=f"out of reach: the set {message}"):
        allocate(CurveCodec(), [flat(100), flat(110)], bpp, cache=cache)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "vmaf"}, "objective must be one of mix, psnr, mse, ms_ssim, got 'vmaf'"),
        ({"bpp": -1.0}, "bpp must be a positive number, got -1"),
        ({"images": []}, "there are no pictures"),
        ({"objective": "ms_ssim"}, "needs a measure"),
        ({"objective": "mse", "measure": negative_error}, "takes no measure"),
        ({"images": [Path("x.png")]}, "need a function that reads them"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(cache, arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate(**{"codec": CurveCodec(), "images": [flat()], "bpp": 1.0, "cache": cache, **arguments})


def test_paths_processes_and_progress_give_the_same_as_arrays_in_this_process(cache, tmp_path):
    images = [textured(seed, 48, 64) for seed in range(3)]
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, images, strict=True):
        PillowImage.fromarray(image).save(path)
    calls = []

    here = allocate(TinyJpegCodec(), images, 1.5, "psnr", cache=EncodeCache(tmp_path / "other"))
    there = allocate(
        TinyJpegCodec(), paths, 1.5, "psnr", read=read, workers=2, cache=cache, progress=lambda *n: calls.append(n)
    )

    assert [p.qp for p in there.pictures] == [p.qp for p in here.pictures]
    assert [p.metrics for p in there.pictures] == [p.metrics for p in here.pictures]
    assert [p.file for p in there.pictures] == [str(path) for path in paths]
    assert [there.bitstream(k) for k in range(3)] == [here.bitstream(k) for k in range(3)]
    assert [done for done, _ in calls] == list(range(1, there.encodes + 1))
    assert calls[-1] == (there.encodes, there.encodes)


def test_second_run_encodes_nothing(cache, tmp_path):
    codec = KnoblessCodec(floor_bytes=900, log=str(tmp_path / "log"))
    images = [flat(sample) for sample in (50, 70, 90)]

    first = allocate(codec, images, 2.0, "psnr", cache=cache)
    encodes = (tmp_path / "log").read_text()
    second = allocate(codec, images, 2.0, "psnr", cache=cache)

    assert first.pictures == second.pictures
    assert (tmp_path / "log").read_text() == encodes
    assert len(encodes.splitlines()) == len({line.rsplit(" ", 1)[0] for line in encodes.splitlines()})


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_encoder_is_reported_with_the_picture_s_name(cache, workers):
    with pytest.raises(CodecError, match=r"^#0: encoder exited with status 3: out of paper"):
        allocate(CurveCodec(fail="tool"), [flat()], 1.0, workers=workers, cache=cache)


def test_crashing_encoder_is_an_error_and_no_hang(cache):
    with pytest.raises(CodecError, match="an encoder process died"):
        allocate(CurveCodec(fail="crash"), [flat()], 1.0, workers=2, cache=cache)


def test_lost_stream_is_an_error(cache):
    result = allocate(CurveCodec(), [flat()], 1.0, cache=cache)
    for path in cache.folder.rglob("*"):
        if path.is_file():
            path.unlink()

    with pytest.raises(CodecError, match="the stream of #0 is gone from"):
        result.bitstream(0)


class SixteenBitCodec(TinyJpegCodec):
    """Decodes to 16 bits, as codecs with deeper planes do."""

    def decode(self, bitstream):
        decoded = super().decode(bitstream)
        return type(decoded)(decoded.image.astype(np.uint16) * 257, decoded.info)


def test_deeper_decoded_pictures_are_rated_in_the_depth_of_the_original(cache):
    image = textured(1)
    rated = [
        code(CodingJob(image, "#0", codec, 50, cache, rated=True)) for codec in (TinyJpegCodec(), SixteenBitCodec())
    ]

    assert rated[0].metrics == rated[1].metrics


def test_manifest_says_how_each_picture_was_made(cache):
    result = allocate(CurveCodec(floor_bytes=900), [flat(50), flat(100)], 2.0, cache=cache)

    parsed = json.loads(manifest_json(result.pictures, objective="mix"))
    rows = list(csv.DictReader(io.StringIO(manifest_csv(result.pictures))))

    assert parsed["objective"] == "mix"
    for entry, row, picture in zip(parsed["pictures"], rows, result.pictures, strict=True):
        assert entry["file"] == row["file"] == picture.file
        assert entry["bytes"] == int(row["bytes"]) == len(picture.codec.encode(flat(entry_sample(picture)), picture.qp))
        assert entry["bpp"] == pytest.approx(8 * entry["bytes"] / 64**2)
        assert entry["options"]["floor_bytes"] == float(row["option floor_bytes"]) == 900
        assert entry["lambda_scale"] == picture.codec.lambda_scale
        assert entry["versions"] == "python 1.0"
        assert entry["metrics"]["psnr"] == pytest.approx(float(row["psnr"]))


def entry_sample(picture):
    return {"#0": 50, "#1": 100}[picture.file]


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from codec_wrappers.allocation import allocate
from codec_wrappers.encode_cache import EncodeCache
from synthetic_codec import CurveCodec, flat
if __name__ == "__main__":
    codec = CurveCodec(fail="hang", log={log!r})
    allocate(codec, [flat(n) for n in range(8)], 1.0, workers=2, cache=EncodeCache(Path({cache!r})))
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process_behind(tmp_path, stop):
    log = tmp_path / "log"
    script = tmp_path / "script.py"
    roots = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script.write_text(SCRIPT.format(path=roots, log=str(log), cache=str(tmp_path / "cache")))
    run = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    workers = wait_for(lambda: len(pids := workers_in(log)) == 2 and pids, 30)

    run.send_signal(stop)
    run.wait(20)

    wait_for(lambda: not any(is_running(int(pid)) for pid in workers), 15)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def workers_in(log):
    return {line.split()[2] for line in log.read_text().splitlines()} if log.exists() else set()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result


def is_running(pid):
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
