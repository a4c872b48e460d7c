"""The estimate at work: in the library, on the command line, on streams; and its training."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_network import random_checkpoint
from training import make_store

from codec_wrappers import get_codec
from codec_wrappers.base import nothing_finer
from enhancer import batch, image_io, inference
from enhancer.backends import create_backend
from enhancer.checkpoint import checkpoint_folder
from enhancer.cli.enhance import main
from enhancer.estimate import CLASSES, CODECS, PRISTINE, Estimate, estimate_condition, load_weights
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.pictures import load_originals
from enhancer.evaluation.sources import parse_codec
from enhancer.inference import Enhancer
from enhancer.traces import TRACES
from train import estimate as training
from train import evaluate as evaluation
from train.estimate import EstimateSettings, Samples, collect, fit, report, train_estimate
from train.store import PairStore, PairWriter

SOURCES = {"codec": "jpeg", "estimated": "codec and qp"}


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    loaded = random_checkpoint()
    return Enhancer(loaded, create_backend("torch", loaded, device="cpu"))


@pytest.fixture(scope="module")
def decoded(photograph):
    codec = get_codec("jpeg")
    return codec.decode(codec.encode(photograph[:160, :200], 30)).image


@pytest.fixture
def enhance(model, capsys):
    """Runs the command and returns its report."""

    def run(*args):
        status = main([*map(str, args), "--model", model, "--backend", "torch", "--threads", "1", "--json"])
        assert status == 0
        return json.loads(capsys.readouterr().out)

    return run


def as_pristine(*_):
    return Estimate(None, None, 0.9, pristine=True)


def test_auto_conditions_on_what_is_estimated(decoded, enhancer):
    found = estimate_condition(decoded)
    expected = enhancer.enhance(decoded, codec="jpeg", qp=found.qp, chroma="420")

    assert found.chroma == "420"
    assert np.array_equal(
        enhancer.enhance(decoded, codec="auto", chroma="444"),
        enhancer.enhance(decoded, codec="jpeg", qp=found.qp, chroma="444"),
    )
    assert np.array_equal(enhancer.enhance(decoded, codec="auto"), expected)
    assert not np.array_equal(enhancer.enhance(decoded), expected)


def test_each_picture_of_a_tensor_is_estimated_by_itself(decoded, enhancer):
    other = get_codec("jpeg").decode(get_codec("jpeg").encode(decoded, 8)).image
    both = torch.from_numpy(np.stack([decoded, other])).permute(0, 3, 1, 2)

    together = enhancer.enhance(both, codec="auto")

    for number in range(2):
        assert torch.equal(together[number], enhancer.enhance(both[number], codec="auto"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_seems_never_coded_comes_back_as_it_is(dtype, decoded, enhancer, monkeypatch):
    monkeypatch.setattr(inference, "estimate_condition", as_pristine)
    image = (decoded / 255).astype(dtype) if dtype is np.float32 else decoded.astype(dtype)

    assert np.array_equal(enhancer.enhance(image, codec="auto"), image)
    assert np.array_equal(enhancer.enhance(image[..., 0], codec="auto"), image[..., 0])


def test_the_command_estimates_what_it_is_not_told(tmp_path, decoded, enhance, enhancer):
    source = tmp_path / "a.png"
    image_io.write_picture(source, image_io.Picture(decoded))

    bare = enhance(source, "-o", tmp_path / "bare.png")
    stated = enhance(source, "-o", tmp_path / "stated.png", "--codec", "jpeg")
    told = enhance(source, "-o", tmp_path / "told.png", "--codec", "jpeg", "--qp", "50")
    unknown = enhance(source, "-o", tmp_path / "unknown.png", "--codec", "unknown")

    assert (bare["codec"], bare["estimated"]) == ("jpeg", "codec and qp")
    assert abs(bare["qp"] - 30) <= 2
    assert 0.2 < bare["confidence"] <= 1
    assert (stated["qp"], stated["estimated"], stated.get("confidence")) == (bare["qp"], "qp", None)
    assert (told["qp"], told.get("estimated")) == (50, None)
    assert bare["chroma"] == stated["chroma"] == told["chroma"] == "420"
    assert unknown.keys().isdisjoint({"codec", "qp", "chroma", "estimated"})
    conditions = {
        "bare": {"codec": "jpeg", "qp": bare["qp"], "chroma": "420"},
        "told": {"codec": "jpeg", "qp": 50, "chroma": "420"},
        "unknown": {},
    }
    for name, condition in conditions.items():
        result = image_io.read_picture(tmp_path / f"{name}.png").image
        assert np.array_equal(result, enhancer.enhance(decoded, **condition))


def test_the_sentence_says_what_is_estimated(tmp_path, decoded, model, capsys, monkeypatch):
    source = tmp_path / "a.png"
    image_io.write_picture(source, image_io.Picture(decoded))
    command = [str(source), "--model", model, "--backend", "torch", "--overwrite"]

    main(command)
    main([*command, "--codec", "jpeg"])
    monkeypatch.setattr(batch, "estimate_condition", as_pristine)
    main(command)

    lines = capsys.readouterr().out.splitlines()
    assert "sure of the codec)" in lines[0]
    assert ", estimated (" in lines[0]
    assert ", qp estimated, " in lines[1]
    assert ": left as it is, maybe never coded (probability 0.90), " in lines[2]
    assert np.array_equal(image_io.read_picture(tmp_path / "a.enhanced.png").image, decoded)


@pytest.mark.parametrize(("name", "options"), [("a.webp", {"lossless": True}), ("a.jp2", {"irreversible": False})])
def test_a_lossless_file_is_as_bare_as_a_png(name, options, tmp_path, decoded, enhance):
    from PIL import Image

    Image.fromarray(decoded).save(tmp_path / name, **options)

    assert SOURCES.items() <= enhance(tmp_path / name, "-o", tmp_path / "b.png").items()


def test_a_codec_that_no_network_has_seen_is_estimated_unless_its_qp_is_said(tmp_path, decoded, enhance, enhancer):
    bitstream = get_codec("jpeg2000").encode(decoded, 330)
    (tmp_path / "a.jp2").write_bytes(bitstream)
    image_io.write_picture(tmp_path / "a.png", image_io.Picture(decoded))

    said = enhance(tmp_path / "a.jp2", "-o", tmp_path / "said.png", "--qp", 330)
    named = enhance(tmp_path / "a.png", "-o", tmp_path / "named.png", "--codec", "jpeg2000")

    assert (said["codec"], said["qp"]) == ("jpeg2000", 330)
    assert "estimated" not in said
    expected = enhancer.enhance(get_codec("jpeg2000").decode(bitstream).image, codec="jpeg2000", qp=330, chroma="444")
    assert np.array_equal(image_io.read_picture(tmp_path / "said.png").image, expected)
    assert SOURCES.items() <= named.items()


@pytest.mark.parametrize(("qp", "untouched"), [(1, True), (8, None), (30, None)])
def test_a_stream_too_good_to_be_corrected_is_called_so(qp, untouched, tmp_path, enhance):
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1 C420\nFRAME\n" + bytes(range(256)) + bytes(128))

    report = enhance(tmp_path / "a.y4m", "-o", tmp_path / "b.y4m", "--codec", "bpg", "--qp", qp)

    assert report.get("untouched") == untouched
    changed = (tmp_path / "b.y4m").read_bytes()[-384:] != (tmp_path / "a.y4m").read_bytes()[-384:]
    assert changed == (not untouched)


def test_a_stream_is_estimated_by_its_first_frame_that_says_something(tmp_path, enhance, monkeypatch):
    answers = iter([Estimate.UNKNOWN, Estimate("jpeg", 30.0, 0.8)])
    monkeypatch.setattr(batch, "estimate_condition", lambda *_: next(answers))
    frame = b"FRAME\n" + bytes(range(256)) * 3
    (tmp_path / "v.y4m").write_bytes(b"YUV4MPEG2 W16 H16 C444\n" + 4 * frame)

    report = enhance(tmp_path / "v.y4m", "-o", tmp_path / "w.y4m")

    assert report["frames"] == 4  # a third estimate would have found no answer
    assert (report["codec"], report["qp"], report["confidence"]) == ("jpeg", 30, 0.8)


def test_a_blind_evaluation_tells_the_network_what_is_estimated(tmp_path, decoded, model, monkeypatch):
    image_io.write_picture(tmp_path / "a.png", image_io.Picture(decoded))
    [original] = load_originals(tmp_path)
    coded = parse_codec("jpeg").produce(original, decoded, 30, None)
    told, blind = (Enhancement(model, backend="torch", device="cpu", blind=blind) for blind in (False, True))

    monkeypatch.setattr(inference, "estimate_condition", lambda _: Estimate("jpeg", 30.0, 1.0, chroma="420"))
    rounded = replace(coded, unrounded=nothing_finer)  # a bare picture has nothing finer
    assert np.array_equal(blind.apply(coded)[0], told.apply(rounded)[0])
    assert not np.array_equal(told.apply(coded)[0], told.apply(rounded)[0])
    assert np.array_equal(replace(told, rounded=True).apply(coded)[0], told.apply(rounded)[0])
    assert (told.identity()["rounded"], blind.identity()["rounded"]) == (False, True)
    monkeypatch.setattr(inference, "estimate_condition", lambda _: Estimate("bpg", 40.0, 1.0))
    assert not np.array_equal(blind.apply(coded)[0], told.apply(coded)[0])
    assert blind.label.endswith(" (blind)")
    assert told.identity()["blind"] is False
    weights = (checkpoint_folder() / "estimate.safetensors").read_bytes()
    assert blind.identity()["blind"] == hashlib.sha256(weights).hexdigest()  # results of other estimates are others


# Training


def toy_samples(rng, count=1500) -> Samples:
    """Classes, severities and chroma formats that some of the statistics give away."""
    statistics = np.zeros((count, TRACES), np.float32)
    statistics[:, 20:41] = rng.normal(size=(count, 21))
    classes = rng.integers(0, len(CLASSES), count)
    statistics[:, 20 : 20 + len(CLASSES)] += 4 * np.eye(len(CLASSES), dtype=np.float32)[classes]
    severities = (0.5 + 0.2 * np.tanh(statistics[:, 40])).astype(np.float32)
    subsampled = (statistics[:, 39] > 0).astype(np.float32)
    severities[classes == CLASSES.index(PRISTINE)] = subsampled[classes == CLASSES.index(PRISTINE)] = np.nan
    return Samples(statistics, classes, severities, subsampled)


def test_training_learns_classes_severities_and_chroma_formats(rng):
    from safetensors.numpy import save

    tensors = fit(toy_samples(rng), EstimateSettings(networks=2, epochs=25, batch=64))

    test = toy_samples(rng, 400)
    logarithms, severities, odds = load_weights(save(tensors), "here").run(test.traces)
    assert (logarithms.argmax(axis=1) == test.classes).mean() > 0.9
    coded = test.classes < len(CODECS)
    assert ((odds > 0) == test.subsampled)[coded].mean() > 0.9
    own = severities[coded, test.classes[coded]]
    spread = np.abs(test.severities[coded] - test.severities[coded].mean()).mean()
    assert np.abs(own - test.severities[coded]).mean() < 0.6 * spread


def test_the_report_counts_and_measures(rng):
    from safetensors.numpy import save

    samples = toy_samples(rng, 50)
    zero = {name: 0 * value for name, value in fit(samples, EstimateSettings(networks=1, epochs=0)).items()}

    lines = list(report(save(zero), samples))

    assert len(lines) == 2 + len(CLASSES)
    bpg = [cell.strip() for cell in lines[2].strip("|").split("|")]
    error = 51 * np.abs(samples.severities[samples.classes == 0]).mean()  # the zero network says severity 0
    # It finds all classes alike, and what may be pristine counts as that.
    assert bpg[:6] == ["bpg", "0", "0", "0", "0", str((samples.classes == 0).sum())]
    assert float(bpg[6]) == pytest.approx(error, abs=0.01)
    share = 1 - np.mean(samples.subsampled[samples.classes == 0])  # and that no chroma was subsampled
    assert bpg[8] == f"{share:.1%}"


@pytest.fixture
def small_store(tmp_path, photograph):
    """Two originals, each by every codec; the contents of VVC and WebP are not theirs."""
    codec = get_codec("jpeg")
    with PairWriter(tmp_path / "store") as writer:
        for name, image in (("a", photograph[:170, :170]), ("b", photograph[100:270, 200:370])):
            writer.add_original(name, "set", f"{name}.png", image)
            for other in CODECS:
                writer.add_pair(name, other, "", 30, 30.0, b"", codec.decode(codec.encode(image, 30)).image, "420")
    return tmp_path / "store"


def test_collected_statistics_are_kept(small_store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FINE", (("jpeg", "420", (98, 100), 1.0), ("jpeg", "444", (98, 100), 1.0)))
    store = PairStore(small_store)

    first = collect(store, validation=False, passes=range(2), cache=tmp_path / "cache")
    (small_store / "pixels.u8").write_bytes(b"\0" * (small_store / "pixels.u8").stat().st_size)
    again = collect(store, validation=False, passes=range(2), cache=tmp_path / "cache")
    with PairWriter(small_store) as writer:
        writer.add_pair(store.pairs[0].original, "bpg", "", 45, 45.0, b"", np.zeros((64, 64, 3), np.uint8))
    more = collect(PairStore(small_store), validation=False, passes=range(2), cache=tmp_path / "cache")

    assert len(first.classes) == 2 * (4 + 4 + 2)  # pairs, crops of the original, fine JPEGs
    assert np.array_equal(first.traces, again.traces)
    assert not np.array_equal(first.traces, more.traces[: len(first.traces)])
    expected = {"bpg": 30 / 51, "vvc": 30 / 63, "webp": 0.7}
    for name, severity in expected.items():
        assert first.severities[first.classes == CLASSES.index(name)] == pytest.approx(severity)
    pristine = first.classes == CLASSES.index(PRISTINE)
    assert np.isnan(first.severities[pristine]).all()
    assert np.isnan(first.subsampled[pristine]).all()
    coloured = ~pristine & np.isfinite(first.subsampled)  # some crops are made gray
    assert set(first.subsampled[coloured & (first.severities > 0.02)]) == {1}
    assert set(first.subsampled[coloured & (first.severities <= 0.02)]) == {0, 1}


def test_the_command_of_training_writes_weights_that_load(small_store, tmp_path):
    output = tmp_path / "estimate.safetensors"
    settings = EstimateSettings(passes=1, networks=1, epochs=2, batch=4)

    lines = list(train_estimate(small_store, output, tmp_path / "cache", settings))

    assert lines[-1].startswith(f'{output}: sha256 = "')
    load_weights(output.read_bytes(), "here")


def test_a_store_without_the_qps_of_a_codec_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no training pairs of vvc with their qp"):
        list(train_estimate(make_store(tmp_path), tmp_path / "x", tmp_path / "cache", EstimateSettings(passes=1)))


def test_evaluation_can_tell_the_network_the_estimate(tmp_path, model, monkeypatch):
    make_store(tmp_path)
    monkeypatch.setattr(evaluation, "estimate_condition", as_pristine)
    left = list(evaluation.evaluate(model, tmp_path, "estimated"))
    monkeypatch.setattr(evaluation, "estimate_condition", lambda _: Estimate("bpg", 37.0, 1.0))
    as_bpg = list(evaluation.evaluate(model, tmp_path, "estimated"))
    monkeypatch.setattr(evaluation, "estimate_condition", lambda _: Estimate("bpg", 37.0, 1.0, chroma="444"))
    as_444 = list(evaluation.evaluate(model, tmp_path, "estimated"))

    known = list(evaluation.evaluate(model, tmp_path, "known"))
    assert [line for line in left if "| bpg |" in line] == ["| bpg | 35–39 | 1 | +0.000 | +0.000 |"]
    assert [line for line in as_bpg if "| bpg |" in line] == [line for line in known if "| bpg |" in line]
    assert as_444 != as_bpg
