from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from codec_wrappers import get_codec
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import UnknownCodecError
from enhancer.errors import EnhancerError, ImageError
from enhancer.evaluation.compare import comparable_metrics, compare_runs
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.external_codec import ExternalCodec
from enhancer.evaluation.measure import EXTRA, TITLES, mean_values, measure
from enhancer.evaluation.pictures import find_pictures, load_originals
from enhancer.evaluation.rd import RdSettings, run_rd
from enhancer.evaluation.records import kept_picture
from enhancer.evaluation.results import load_run, load_runs
from enhancer.evaluation.sources import CodecSource, FolderSource, conform, parse_codec
from enhancer.image_io import Picture, write_picture
from enhancer.metrics import psnr
from tests.small_network import write_random_checkpoint
from tests.test_external_codec import COPY, external

QPS = (20, 40, 60, 80)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photograph):
    """Three crops of a photograph, large enough for MS-SSIM."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (top, left) in enumerate([(0, 0), (100, 80), (60, 250)]):
        PillowImage.fromarray(photograph[top : top + 168, left : left + 176]).save(folder / f"crop{i}.png")
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pictures):
    """JPEG and WebP measured on :func:`pictures`, pictures kept."""
    output = tmp_path_factory.mktemp("results")
    settings = RdSettings(qps=QPS, keep_pictures=True, cache=EncodeCache(output / "cache"))
    run_rd(load_originals(pictures), [parse_codec("jpeg"), parse_codec("webp")], settings, output)
    return output


def without_times(path: Path):
    document = json.loads(path.read_text())
    del document["environment"]["created"]
    for point in document["points"]:
        for record in point["pictures"]:
            del record["seconds"]
    return document


def test_numbers_are_those_of_the_codec_and_the_metrics(pictures, measured):
    run = load_run(measured / "jpeg.run.json")
    path = find_pictures(pictures)[1]
    image = np.asarray(PillowImage.open(path))
    codec = get_codec("jpeg")
    bitstream = codec.encode(image, 40)

    record = next(r for r in run.at(40) if r.picture == path.name)

    assert record.byte_count == len(bitstream)
    assert record.bpp == pytest.approx(8 * len(bitstream) / (168 * 176))
    assert record.metrics["psnr"] == pytest.approx(psnr(image, codec.decode(bitstream).image, data_range=255))
    assert record.coding["qp"] == 40
    assert set(record.metrics) == set(TITLES) - set(EXTRA)
    kept = np.asarray(PillowImage.open(kept_picture(measured, record.output_sha256)))
    np.testing.assert_array_equal(kept, codec.decode(bitstream).image)


def test_a_run_file_says_what_is_needed_to_repeat_it(measured):
    document = json.loads((measured / "jpeg.run.json").read_text())

    assert document["source"]["options"]["chroma"] == get_codec("jpeg").chroma
    assert {"python", "numpy", "torch"} <= set(document["environment"]["versions"])
    assert {"machine", "command", "created", "code"} <= set(document["environment"])
    means = document["points"][0]["mean"]
    values = [r["metrics"]["mse"] for r in document["points"][0]["pictures"]]
    assert means["psnr_of_mean_mse"] == pytest.approx(10 * math.log10(255**2 / np.mean(values)))


def test_measuring_again_gives_the_same_files_but_for_times(tmp_path, pictures, measured):
    again = tmp_path / "again"
    run_rd(load_originals(pictures), [parse_codec("jpeg")], RdSettings(qps=QPS), again)

    assert without_times(again / "jpeg.run.json") == without_times(measured / "jpeg.run.json")


def test_a_half_done_evaluation_goes_on_where_it_stopped(tmp_path, pictures, monkeypatch):
    originals = load_originals(pictures)
    settings = RdSettings(qps=QPS)

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rd(originals, [parse_codec("jpeg")], settings, tmp_path, progress=stop)
    assert not list(tmp_path.glob("*.run.json"))
    encoded = []
    encode = type(get_codec("jpeg")).encode
    monkeypatch.setattr(
        type(get_codec("jpeg")), "encode", lambda self, *args, **kw: encoded.append(args) or encode(self, *args, **kw)
    )

    run_rd(originals, [parse_codec("jpeg")], settings, tmp_path)

    assert len(encoded) == 3 * 4 - 5
    assert len(load_run(tmp_path / "jpeg.run.json").records) == 12


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_evaluation_leaves_no_half_file_and_no_process(tmp_path, pictures):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from enhancer.evaluation.pictures import load_originals\n"
        "from enhancer.evaluation.rd import RdSettings, run_rd\n"
        "from enhancer.evaluation.sources import parse_codec\n"
        "def stop(done, total):\n"
        "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        f"    run_rd(load_originals(Path({str(pictures)!r})), [parse_codec('jpeg')],\n"
        f"           RdSettings(qps={QPS}, jobs=2), Path(sys.argv[1]), progress=stop)\n"
    )
    (tmp_path / "go.py").write_text(script)
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "go.py", output],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    assert process.wait(120) == -9
    end = time.monotonic() + 20
    while group_exists(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not group_exists(process.pid)
    run_rd(load_originals(pictures), [parse_codec("jpeg")], RdSettings(qps=QPS), output)
    assert len(load_run(output / "jpeg.run.json").records) == 12
    assert all(path.suffix == ".json" for path in (output / "records").iterdir())


def test_a_damaged_record_is_measured_anew(tmp_path, pictures):
    originals = load_originals(pictures, 1)
    run_rd(originals, [parse_codec("jpeg@50")], RdSettings(), tmp_path)
    [record] = (tmp_path / "records").iterdir()
    good = json.loads(record.read_text())
    record.write_text(record.read_text()[:100])

    run_rd(originals, [parse_codec("jpeg@50")], RdSettings(), tmp_path)

    assert {**json.loads(record.read_text()), "seconds": 0} == {**good, "seconds": 0}


@pytest.mark.parametrize(
    ("other", "message"),
    [("jpeg=jpeg:chroma=444", "measured with other settings"), ("jpeg=webp", "measured with other settings")],
)
def test_a_results_folder_with_other_settings_is_refused(measured, pictures, other, message):
    before = (measured / "jpeg.run.json").read_bytes()

    with pytest.raises(EnhancerError, match=message):
        run_rd(load_originals(pictures), [parse_codec(other)], RdSettings(qps=QPS), measured)

    assert (measured / "jpeg.run.json").read_bytes() == before


def test_a_run_of_other_settings_can_be_replaced_on_request(tmp_path, pictures):
    originals = load_originals(pictures, 1)
    run_rd(originals, [parse_codec("jpeg@50")], RdSettings(), tmp_path)

    run_rd(originals, [parse_codec("jpeg=jpeg:chroma=444@50")], RdSettings(overwrite=True), tmp_path)

    assert load_run(tmp_path / "jpeg.run.json").records[0].coding["chroma"] == "444"


def test_a_results_folder_of_other_pictures_or_another_format_is_refused(tmp_path, pictures):
    originals = load_originals(pictures)
    run_rd(originals[:1], [parse_codec("jpeg@50")], RdSettings(), tmp_path)

    with pytest.raises(EnhancerError, match="measured on other pictures"):
        run_rd(originals[:2], [parse_codec("jpeg@50")], RdSettings(), tmp_path)
    path = tmp_path / "jpeg.run.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(EnhancerError, match="is of format 0, this version reads 1"):
        run_rd(originals[:1], [parse_codec("jpeg@50")], RdSettings(), tmp_path)


def test_runs_by_different_versions_are_not_shown_together(tmp_path, pictures):
    originals = load_originals(pictures, 1)
    run_rd(originals, [parse_codec("jpeg@50"), parse_codec("webp@50")], RdSettings(), tmp_path)
    assert len(load_runs(tmp_path)) == 2
    path = tmp_path / "jpeg.run.json"
    document = json.loads(path.read_text())
    document["environment"]["code"]["measuring"] = "0" * 64
    path.write_text(json.dumps(document))

    with pytest.raises(EnhancerError, match="jpeg and webp were measured by different versions"):
        load_runs(tmp_path)

    run_rd(originals, [parse_codec("jpeg@50")], RdSettings(), tmp_path)
    assert len(load_runs(tmp_path)) == 2


def test_an_enhanced_run_needs_the_version_of_the_codec_that_its_decoded_run_has(tmp_path, pictures):
    checkpoint = write_random_checkpoint(tmp_path / "small.safetensors")
    settings = RdSettings(enhancements=(Enhancement(str(checkpoint), backend="torch", device="cpu"),))
    run_rd(load_originals(pictures, 1), [parse_codec("jpeg@50"), parse_codec("webp@50")], settings, tmp_path / "out")
    path = tmp_path / "out" / "jpeg.run.json"
    document = json.loads(path.read_text())
    assert len(document["source"]["code"]) == 64
    document["source"]["code"] = "0" * 64
    path.write_text(json.dumps(document))

    with pytest.raises(EnhancerError, match=r"jpeg and jpeg \+ small were measured by different versions"):
        load_runs(tmp_path / "out")


def test_two_runs_of_one_name_are_refused(tmp_path, pictures):
    with pytest.raises(ValueError, match="two runs would be called 'jpeg'"):
        run_rd(load_originals(pictures), [parse_codec("jpeg"), parse_codec("jpeg")], RdSettings(qps=QPS), tmp_path)


@pytest.mark.parametrize("qps", [(), (50, 500)])
def test_missing_or_impossible_qps_are_refused_before_anything_runs(tmp_path, pictures, qps):
    with pytest.raises(ValueError, match=r"no qps for jpeg|qp must be an integer"):
        run_rd(load_originals(pictures), [parse_codec("jpeg")], RdSettings(qps=qps), tmp_path)
    assert not list(tmp_path.iterdir())


def test_small_pictures_are_left_out_of_the_ms_ssim_mean_only(tmp_path, photograph):
    folder = tmp_path / "pictures"
    folder.mkdir()
    PillowImage.fromarray(photograph[:180, :180]).save(folder / "large.png")
    PillowImage.fromarray(photograph[:160, :300]).save(folder / "small.png")
    run_rd(load_originals(folder), [parse_codec("jpeg")], RdSettings(qps=QPS), tmp_path / "out")

    run = load_run(tmp_path / "out" / "jpeg.run.json")

    assert run.left_out("ms_ssim") == ("small.png",)
    assert run.left_out("psnr") == ()
    large = [r for r in run.records if r.picture == "large.png"]
    assert [p.value for p in run.curve("ms_ssim").points] == [r.metrics["ms_ssim"] for r in large]
    assert [p.bpp for p in run.curve("ms_ssim").points] == [r.bpp for r in large]
    document = json.loads((tmp_path / "out" / "jpeg.run.json").read_text())
    assert document["left_out"]["ms_ssim"] == ["small.png"]


def test_identical_pictures_are_infinite_in_files_and_refused_by_deltas(tmp_path, pictures):
    originals = load_originals(pictures)
    lossless = FolderSource("copy", (pictures,) * 4, (pictures,) * 4)
    run_rd(originals, [lossless, parse_codec("jpeg@20,40,60,80")], RdSettings(), tmp_path)

    run = load_run(tmp_path / "copy.run.json")

    assert all(r.metrics["psnr"] == math.inf and r.metrics["ms_ssim"] == 1.0 for r in run.records)
    document = json.loads((tmp_path / "copy.run.json").read_text())  # strict readers know no Infinity
    assert document["points"][0]["mean"]["psnr"] == "inf"
    assert "Infinity" not in (tmp_path / "copy.run.json").read_text()
    with pytest.raises(ValueError, match="infinite"):
        compare_runs(load_run(tmp_path / "jpeg.run.json"), run)


def test_mean_psnr_and_psnr_of_mean_error_differ_and_infinity_stays():
    values = mean_values([{"psnr": math.inf, "mse": 0.0}, {"psnr": 40.0, "mse": 6.5025}])

    assert values["psnr"] == math.inf
    assert values["psnr_of_mean_mse"] == pytest.approx(10 * math.log10(2 * 255**2 / 6.5025))


def test_decoded_folders_are_compared_with_their_originals(tmp_path, pictures, measured):
    codec = get_codec("jpeg")
    folders = {qp: (tmp_path / f"d{qp}", tmp_path / f"b{qp}") for qp in QPS}
    for qp, (decoded, coded) in folders.items():
        decoded.mkdir()
        coded.mkdir()
        for path in find_pictures(pictures):
            bitstream = codec.encode(np.asarray(PillowImage.open(path)), qp)
            (coded / f"{path.stem}.jpg").write_bytes(bitstream)
            PillowImage.fromarray(codec.decode(bitstream).image).save(decoded / f"{path.stem}.png")
    source = FolderSource("mine", tuple(d for d, _ in folders.values()), tuple(b for _, b in folders.values()))

    run_rd(load_originals(pictures), [source], RdSettings(), tmp_path / "out")

    run, reference = load_run(tmp_path / "out" / "mine.run.json"), load_run(measured / "jpeg.run.json")
    assert [(r.bpp, r.metrics) for r in run.records] == [(r.bpp, r.metrics) for r in reference.records]
    (folders[20][0] / "crop1.png").unlink()
    with pytest.raises(ImageError, match=r"lacks 1 of 3 pictures, e\.g\. crop1"):
        source.check(load_originals(pictures))


def test_decoded_pictures_of_another_size_or_without_original_are_refused(tmp_path, pictures, photograph):
    decoded = tmp_path / "decoded"
    decoded.mkdir()
    for path in find_pictures(pictures):
        PillowImage.fromarray(photograph[:168, :175]).save(decoded / path.name)
    originals = load_originals(pictures)
    with pytest.raises(ImageError, match="differ in size, 175x168x3 and 176x168x3"):
        run_rd(originals, [FolderSource("d", (decoded,))], RdSettings(), tmp_path / "out")
    PillowImage.fromarray(photograph).save(decoded / "more.png")
    with pytest.raises(ImageError, match=r"1 pictures without an original, e\.g\. more"):
        run_rd(originals, [FolderSource("d", (decoded,))], RdSettings(), tmp_path / "out")


def test_unusable_folders_of_originals_are_refused(tmp_path, photograph):
    with pytest.raises(ImageError, match="is not a folder"):
        load_originals(tmp_path / "none")
    with pytest.raises(ImageError, match="no pictures in"):
        load_originals(tmp_path)
    PillowImage.fromarray(photograph).save(tmp_path / "a.png")
    PillowImage.fromarray(photograph).save(tmp_path / "a.bmp")
    with pytest.raises(ImageError, match=r"two pictures of one name: a\.bmp and a\.png"):
        load_originals(tmp_path)
    (tmp_path / "a.bmp").unlink()
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with pytest.raises(ImageError, match=r"a\.png"):
        load_originals(tmp_path)
    PillowImage.new("RGBA", (8, 8), (1, 2, 3, 100)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="transparency"):
        load_originals(tmp_path)


def test_depths_and_gray_conform_to_the_original():
    wide = np.array([[[0, 65535, 128 * 257]]], np.uint16)
    narrow = np.array([[[0, 255, 128]]], np.uint8)
    assert conform(wide, narrow, "x").tolist() == narrow.tolist()
    assert conform(narrow, wide, "x").tolist() == wide.tolist()
    gray = np.array([[7, 9]], np.uint8)
    assert conform(np.repeat(gray[..., None], 3, axis=2), gray, "x").tolist() == gray.tolist()


def test_codec_specs():
    plain = parse_codec("bpg")
    assert isinstance(plain, CodecSource)
    assert (plain.label, plain.codec, plain.own_qps) == ("bpg", get_codec("bpg"), ())
    tuned = parse_codec("mine=bpg:tuned,chroma=444@22,27")
    assert (tuned.label, tuned.codec, tuned.own_qps) == (
        "mine",
        get_codec("bpg", preset="tuned", chroma="444"),
        (22, 27),
    )
    assert parse_codec("jpeg:chroma=444").label == "jpeg:chroma=444"
    assert parse_codec("JPEG 4:4:4=jpeg:chroma=444").label == "JPEG 4:4:4"
    command = parse_codec(f"x={external(COPY, COPY)}@1,2")
    assert (command.label, command.own_qps) == ("x", (1, 2))
    assert isinstance(command.codec, ExternalCodec)
    with pytest.raises(UnknownCodecError, match="nope"):
        parse_codec("nope")
    with pytest.raises(ValueError, match="preset"):
        parse_codec("bpg:quick")
    with pytest.raises(ValueError, match="no option 'tempo'"):
        parse_codec("bpg:tempo=3")
    with pytest.raises(ValueError, match="given twice"):
        parse_codec("bpg:tuned,fast")


def test_comparison_of_a_run_with_itself_is_nothing_and_deltas_are_paired(measured):
    runs = {run.label: run for run in load_runs(measured)}

    same = compare_runs(runs["jpeg"], runs["jpeg"], resamples=20)
    webp = compare_runs(runs["jpeg"], runs["webp"], metric="ms_ssim_db", method="akima", resamples=50)

    assert same.bd_rate.value == pytest.approx(0, abs=1e-9)
    assert same.covered == pytest.approx(1.0)
    assert webp.bd_rate.value < 0 < webp.bd_quality.value
    assert [p.picture for p in webp.pictures] == ["crop0.png", "crop1.png", "crop2.png"]
    assert "mse" not in comparable_metrics(runs["jpeg"], runs["webp"])
    with pytest.raises(ValueError, match="'mse' cannot be compared"):
        compare_runs(runs["jpeg"], runs["webp"], metric="mse")


def test_enhancement_is_measured_beside_the_decoded_picture_and_keeps_its_rate(tmp_path, pictures):
    checkpoint = write_random_checkpoint(tmp_path / "small.safetensors")
    enhancement = Enhancement(str(checkpoint), backend="torch", device="cpu")
    originals = load_originals(pictures, 1)

    paths = run_rd(originals, [parse_codec("jpeg@30,60")], RdSettings(enhancements=(enhancement,)), tmp_path / "out")

    decoded, enhanced = map(load_run, paths)
    assert enhanced.label == "jpeg + small"
    assert [r.bitstream_sha256 for r in enhanced.records] == [r.bitstream_sha256 for r in decoded.records]
    assert all(a.output_sha256 != b.output_sha256 for a, b in zip(decoded.records, enhanced.records, strict=True))
    assert enhanced.enhancement["backend"] == "torch"
    assert len(enhanced.enhancement["sha256"]) == 64


def test_extra_metrics_are_measured_when_asked_for_and_can_be_compared(tmp_path, pictures):
    sources = [parse_codec("jpeg@20,40,60,80"), parse_codec("webp@20,40,60,80")]
    run_rd(load_originals(pictures, 1), sources, RdSettings(extra=("ssimulacra2", "vif")), tmp_path)

    jpeg, webp = load_runs(tmp_path)

    values = [r.metrics["ssimulacra2"] for r in jpeg.records]
    assert values == sorted(values)
    assert -50 < values[0] < values[-1] < 100
    assert {"vif", "ssimulacra2"} <= set(comparable_metrics(jpeg, webp))
    assert compare_runs(jpeg, webp, metric="ssimulacra2").bd_rate < 0


def test_pictures_of_16_bits_are_coded_and_measured_as_such(tmp_path, photograph):
    folder = tmp_path / "deep"
    folder.mkdir()
    deep = photograph[:60, :80].astype(np.uint16) * 257 + np.arange(80, dtype=np.uint16)[:, None]
    write_picture(folder / "a.png", Picture(deep))
    [original] = load_originals(folder)

    run_rd([original], [parse_codec("jpeg2000@500"), parse_codec("bpg:fast,bit_depth=12@4")], RdSettings(), tmp_path)

    for run in load_runs(tmp_path):
        [record] = run.records
        assert record.coding["bit_depth"] == {"jpeg2000": 16, "bpg": 12}[record.coding["codec"]]
        codec = parse_codec(run.label).codec
        decoded = codec.decode(codec.encode(deep, record.qp)).image
        assert record.metrics["psnr"] == pytest.approx(psnr(deep, decoded, data_range=65535))
    assert original.bit_depth == 16


def test_gray_pictures_have_no_colour_channels(photograph):
    gray = np.ascontiguousarray(photograph[:170, :170, 1])
    values = measure(gray, gray // 2)

    assert values["psnr_r"] is values["psnr_b"] is None
    assert values["psnr_y601"] == pytest.approx(values["psnr"])
