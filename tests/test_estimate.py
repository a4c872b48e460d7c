"""Codec and qp from the picture alone: what the shipped weights find, and what they do not claim."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from codec_wrappers import get_codec
from enhancer import checkpoint
from enhancer.errors import CheckpointError
from enhancer.estimate import CLASSES, CODECS, OUTPUTS, Estimate, _shipped_weights, estimate_condition, load_weights
from enhancer.traces import TRACES, traces


@pytest.fixture(scope="module")
def jpeg_40(photograph):
    codec = get_codec("jpeg")
    return codec.decode(codec.encode(photograph, 40)).image


@pytest.fixture(scope="module")
def bpg_37(photograph):
    codec = get_codec("bpg")
    return codec.decode(codec.encode(photograph, 37)).image


@pytest.mark.parametrize("quality", [8, 25, 60, 90])
@pytest.mark.parametrize("chroma", ["420", "444"])
def test_the_quality_of_a_jpeg_is_found_within_two_steps(quality, chroma, photograph):
    codec = get_codec("jpeg", chroma=chroma)

    found = estimate_condition(codec.decode(codec.encode(photograph, quality)).image)

    assert found.codec == "jpeg"
    assert abs(found.qp - quality) <= 2
    assert found.confidence > 0.5


@settings(max_examples=12)
@given(top=st.integers(0, 20), left=st.integers(0, 20))
def test_crops_off_the_grid_are_judged_like_the_whole(top, left, jpeg_40):
    found = estimate_condition(jpeg_40[top:, left:])

    assert (found.codec, abs(found.qp - 40) <= 2) == ("jpeg", True)


def test_depth_alpha_and_missing_colour_do_not_matter(jpeg_40, photograph):
    expected = estimate_condition(jpeg_40)

    assert estimate_condition(jpeg_40) == expected
    assert estimate_condition(jpeg_40.astype(np.uint16) * 257) == expected
    assert estimate_condition(jpeg_40.astype(np.float32) / 255) == expected
    assert estimate_condition(np.dstack([jpeg_40, jpeg_40[..., 0]])) == expected
    codec = get_codec("jpeg")
    gray = estimate_condition(codec.decode(codec.encode(photograph[..., 1], 40)).image)
    assert (gray.codec, abs(gray.qp - 40) <= 2, gray.chroma) == ("jpeg", True, "400")


@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize(("name", "qp"), [("jpeg", 15), ("jpeg", 90), ("bpg", 27), ("bpg", 42)])
def test_the_chroma_format_is_found(name, qp, chroma, photograph):
    codec = get_codec(name, chroma=chroma)

    found = estimate_condition(codec.decode(codec.encode(photograph, qp)).image[3:, 5:])

    assert (found.codec, found.chroma) == (name, chroma)


def test_bpg_is_told_from_jpeg_and_its_qp_is_near(bpg_37):
    found = estimate_condition(bpg_37)

    assert found.codec == "bpg"
    assert abs(found.qp - 37) <= 4


def test_of_a_stated_codec_qp_and_chroma_format_are_estimated(bpg_37, jpeg_40):
    assert estimate_condition(bpg_37, "bpg") == Estimate("bpg", estimate_condition(bpg_37).qp, 1.0, chroma="420")
    assert abs(estimate_condition(jpeg_40, "jpeg").qp - 40) <= 2
    assert estimate_condition(bpg_37, "avif") == Estimate("avif", None, 1.0)  # none was seen in training


def test_a_picture_that_was_scaled_down_is_pristine(photograph):
    height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
    small = photograph[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).round()

    found = estimate_condition(small.astype(np.uint8))

    assert (found.codec, found.qp, found.pristine) == (None, None, True)


def test_no_chroma_format_is_claimed_that_the_networks_have_not_seen(jpeg_40, photograph):
    assert estimate_condition(jpeg_40[..., 1], "jpeg").chroma == "400"
    assert estimate_condition(jpeg_40[..., 1], "webp").chroma is None
    assert estimate_condition(photograph[::2, ::2], "bpg").chroma == "444"
    assert estimate_condition(photograph[::2, ::2], "vvc").chroma is None


@pytest.mark.parametrize("shape", [(1, 1, 3), (47, 300, 3), (200, 200, 3), (200, 200)], ids=str)
def test_pictures_that_say_nothing_are_unknown(shape):
    image = np.full(shape, 128, np.uint8)

    assert estimate_condition(image) == Estimate.UNKNOWN
    assert estimate_condition(image, "bpg") == Estimate("bpg", None, 1.0)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8), np.uint8), np.zeros((8, 8), bool)])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="image must be"):
        estimate_condition(image)


def test_large_pictures_are_judged_by_parts_of_all_four_quarters(jpeg_40, photograph):
    """A coded quarter of 600 x 902 pixels among pristine ones changes the confidence, whichever it is."""
    height, width = photograph.shape[:2]
    plain = np.full((2 * height, 2 * width, 3), 90, np.uint8)
    for top in (0, height):
        for left in (0, width):
            image = plain.copy()
            image[top : top + height, left : left + width] = jpeg_40
            assert estimate_condition(image).codec == "jpeg"


def test_traces_have_their_stated_number_and_are_finite_for_any_content(rng):
    for window in (
        np.zeros((48, 48, 3), np.uint8),
        np.full((50, 61, 3), 255, np.uint8),
        rng.integers(0, 256, (64, 48, 3), np.uint8),
    ):
        found = traces(window)
        assert found.shape == (TRACES,)
        assert np.isfinite(found).all()


def tensors(outputs: int = OUTPUTS) -> dict[str, np.ndarray]:
    sizes = (TRACES, 4, 4, outputs)
    layers = {"mean": np.zeros(TRACES, np.float32), "scale": np.ones(TRACES, np.float32)}
    for number in range(3):
        layers[f"{number}.weight"] = np.ones((2, sizes[number], sizes[number + 1]), np.float32) / 100
        layers[f"{number}.bias"] = np.zeros((2, 1, sizes[number + 1]), np.float32)
    return layers


def test_probabilities_add_up_to_one():
    logarithms, severities, odds = load_weights(save(tensors()), "here").run(np.ones((3, TRACES), np.float32))

    np.testing.assert_allclose(np.exp(logarithms), 1 / len(CLASSES), rtol=1e-5)  # all outputs are alike
    assert (severities.shape, odds.shape) == ((3, len(CODECS)), (3,))


def test_files_that_do_not_fit_are_refused():
    broken = tensors()
    del broken["1.bias"]
    for data in (b"", save(broken), save(tensors(outputs=5)), save(tensors() | {"mean": np.zeros(9, np.float32)})):
        with pytest.raises(CheckpointError, match="here holds no weights"):
            load_weights(data, "here")


def test_shipped_weights_are_checked_by_their_hash(tmp_path, monkeypatch, jpeg_40):
    monkeypatch.setattr(checkpoint, "checkpoint_folder", lambda: tmp_path)
    _shipped_weights.cache_clear()
    try:
        with pytest.raises(CheckpointError, match="are missing"):
            estimate_condition(jpeg_40)
        data = save(tensors())
        (tmp_path / "e.safetensors").write_bytes(data)
        entry = '[estimate]\nkind = "estimate"\nfile = "e.safetensors"\nsha256 = "{}"\n'
        (tmp_path / "manifest.toml").write_text(entry.format("0" * 64))
        with pytest.raises(CheckpointError, match="damaged"):
            estimate_condition(jpeg_40)
        (tmp_path / "manifest.toml").write_text(entry.format(hashlib.sha256(data).hexdigest()))
        assert estimate_condition(jpeg_40).confidence == pytest.approx(1 / len(CLASSES), abs=1e-3)
        assert checkpoint.checkpoint_names() == ()  # it is no network
    finally:
        _shipped_weights.cache_clear()
