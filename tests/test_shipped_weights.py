"""What the shipped networks promise, beyond what holds for any network."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from codec_wrappers import get_codec
from codec_wrappers.learned.loader import missing_modules
from enhancer.backends import create_backend
from enhancer.checkpoint import checkpoint_names, load_checkpoint
from enhancer.image_io import read_picture
from enhancer.inference import Enhancer
from enhancer.metrics import psnr

NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "max" else ()) for name in checkpoint_names()]
VARIANTS = [
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnx", "float32"),
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def decoded(photograph):
    codec = get_codec("bpg")
    return codec.decode(codec.encode(photograph[60:256, 80:289], 37))


@pytest.mark.parametrize("name", NAMES)
def test_whole_and_tiled_by_every_backend_are_one_picture(name, decoded):
    checkpoint = load_checkpoint(name)
    known = {"codec": decoded.info.codec, "qp": decoded.info.qp}
    reference = Enhancer(checkpoint, create_backend("torch", checkpoint, device="cpu"), tile=1024)
    expected = reference.enhance(decoded.image, **known).astype(int)
    assert np.abs(expected - decoded.image).max() > 4  # the network does something

    for backend, precision in VARIANTS:
        if importlib.util.find_spec({"onnx": "onnxruntime"}.get(backend, backend)) is None:
            continue
        runner = create_backend(backend, checkpoint, device="cpu", precision=precision)
        for tile in (1024, 64):
            result = Enhancer(checkpoint, runner, tile=tile).enhance(decoded.image, **known)
            difference = np.abs(result - expected)
            assert difference.max() <= 1, (backend, precision, tile)


@pytest.mark.parametrize("name", NAMES)
def test_enhancement_brings_a_decoded_photograph_closer_to_the_original(name, photograph, decoded):
    original = photograph[60:256, 80:289].astype(float)
    result = Enhancer.from_checkpoint(name).enhance(decoded.image, codec="bpg", qp=decoded.info.qp)

    def squared_error(image):
        return ((image - original) ** 2).mean()

    assert squared_error(result) < squared_error(decoded.image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("codec", "qp"), [("heic", 40), ("avif", 50), ("jpeg2000", 330)])
def test_codecs_that_no_network_has_seen_gain_too(name, codec, qp, photograph):
    original = np.ascontiguousarray(photograph[60:256, 80:289])
    decoded = get_codec(codec).decode(get_codec(codec).encode(original, qp))
    info = decoded.info

    result = Enhancer.from_checkpoint(name).enhance(decoded.image, codec=codec, qp=info.qp, chroma=info.chroma)

    assert psnr(result, original, data_range=255) > psnr(decoded.image, original, data_range=255) + 0.02


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("codec", "qp"), [("bpg", 0), ("vvc", 0), ("jpeg", 100), ("webp", 100), ("avif", 100)])
def test_the_best_quality_of_a_codec_is_never_made_worse(name, codec, qp, photograph):
    original = np.ascontiguousarray(photograph[60:256, 80:289])
    decoded = get_codec(codec).decode(get_codec(codec).encode(original, qp))
    info = decoded.info

    result = Enhancer.from_checkpoint(name).enhance(decoded.image, codec=codec, qp=info.qp, chroma=info.chroma)

    assert psnr(result, original, data_range=255) > psnr(decoded.image, original, data_range=255) - 0.02


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_enhancement_shifts_no_mean_colour_away_from_the_original(name, eval_data):
    """Over crops of Kodak, less than 0.1 of 255 is added to the decoder's own shift of any channel."""
    codec, enhancer = get_codec("bpg"), Enhancer.from_checkpoint(name)
    before, after = [], []
    for path in sorted((eval_data / "kodak").iterdir()):
        original = np.ascontiguousarray(read_picture(path).image[100:292, 200:392])
        decoded = codec.decode(codec.encode(original, 37))
        result = enhancer.enhance(decoded.image, codec="bpg", qp=decoded.info.qp)
        before.append((decoded.image.astype(float) - original).mean(axis=(0, 1)))
        after.append((result.astype(float) - original).mean(axis=(0, 1)))

    assert len(after) == 24
    added = np.abs(np.mean(after, axis=0)) - np.abs(np.mean(before, axis=0))
    assert added.max() < 0.1, added


@pytest.mark.skipif(bool(missing_modules()), reason="the extra [learned] is not installed")
@pytest.mark.parametrize("name", ["msh", "vrae", "msh-sf"])
def test_learned_codecs_give_more_quality_for_more_bytes(name, photograph):
    codec = get_codec(name)
    original = photograph[40:296, 60:316]
    low, high = codec.qp_range.low, codec.qp_range.high
    qps = sorted({round(low + (high - low) * place / 4) for place in range(5)})

    streams = [codec.encode(original, qp) for qp in qps]
    quality = [psnr(original, codec.decode(stream).image, data_range=255) for stream in streams]

    sizes = [len(stream) for stream in streams]
    assert len(sizes) >= 4
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0]
    assert quality == sorted(quality)
    assert quality[0] > 25
    assert quality[-1] > quality[0] + 3
