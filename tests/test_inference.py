from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_network import random_checkpoint, write_random_checkpoint

from codec_wrappers import get_codec
from enhancer import inference
from enhancer.backends.torch_backend import TorchBackend
from enhancer.condition import QP_SCALES
from enhancer.errors import EnhancerError
from enhancer.estimate import Estimate
from enhancer.inference import Enhancer, enhance

CHECKPOINT = random_checkpoint()
CPU = torch.device("cpu")


def enhancer(**options) -> Enhancer:
    return Enhancer(CHECKPOINT, TorchBackend(CHECKPOINT, device=CPU), **options)


def noise(*shape: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.one_of(st.just("auto"), st.integers(1, 40)),
    ensemble=st.sampled_from(["none", "dihedral"]),
)
def test_any_tile_gives_the_whole_picture(height, width, tile, ensemble):
    image = noise(height, width, 3)

    whole = enhancer(tile=1000, ensemble=ensemble).enhance(image)
    tiled = enhancer(tile=tile, ensemble=ensemble).enhance(image)

    assert whole.shape == image.shape
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_a_picture_that_the_network_changes_is_changed():
    assert np.abs(enhancer().enhance(noise(32, 32, 3)).astype(int) - noise(32, 32, 3)).max() > 3


def test_codec_qp_and_chroma_each_change_the_result():
    image = noise(32, 32, 3)
    told = [{}, {"codec": "bpg"}, {"codec": "bpg", "qp": 45}, {"codec": "bpg", "qp": 45, "chroma": "444"}]

    results = [enhancer().enhance(image, **known) for known in told]

    assert len({result.tobytes() for result in results}) == len(told)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(17, 23), (17, 23, 3), (17, 23, 4), (1, 1, 3)], ids=str)
def test_arrays_keep_shape_dtype_and_alpha(dtype, shape):
    image = noise(*shape) / 255.0
    image = image.astype(dtype) if np.dtype(dtype).kind == "f" else (image * np.iinfo(dtype).max).astype(dtype)
    image.flags.writeable = False  # as decoders return it

    result = enhancer().enhance(image)

    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    if shape[-1] == 4:
        assert np.array_equal(result[..., 3], image[..., 3])


def test_sixteen_bits_do_not_pass_through_eight():
    image = noise(32, 32, 3, dtype=np.uint16)

    as_integers = enhancer().enhance(image)
    as_floats = enhancer().enhance(image.astype(np.float32) / 65535)

    assert np.abs(as_integers - as_floats * 65535.0).max() <= 0.51
    assert len(np.unique(as_integers)) > 1000


@pytest.mark.parametrize("shape", [(21, 30), (21, 30, 3), (21, 30, 4)], ids=str)
@pytest.mark.parametrize("codec", ["jpeg", "auto"])
def test_what_a_decoder_has_before_rounding_is_restored_and_then_rounded(shape, codec, monkeypatch):
    monkeypatch.setattr(inference, "estimate_condition", lambda _: Estimate("jpeg", 40.0, 1.0))
    unrounded = noise(*shape, dtype=np.uint16)
    image = np.rint(unrounded / 257).astype(np.uint8)
    known = {"codec": codec, "qp": None if codec == "auto" else 40}

    result = enhancer(tile=16).enhance(image, unrounded=lambda: unrounded, **known)

    colours = slice(None) if len(shape) == 2 else (..., slice(3))
    expected = enhancer().enhance(unrounded, codec="jpeg", qp=40)
    assert result.dtype == np.uint8
    assert np.abs(result[colours].astype(float) - expected[colours] / 257).max() < 0.501
    assert not np.array_equal(result, enhancer().enhance(image, **known))
    assert np.array_equal(enhancer(tile=16).enhance(image, unrounded=unrounded, **known), result)
    assert np.array_equal(
        enhancer().enhance(image, unrounded=lambda: None, **known), enhancer().enhance(image, **known)
    )
    if shape[-1] == 4:
        assert np.array_equal(result[..., 3], image[..., 3])


def test_where_nothing_is_corrected_the_picture_is_the_rounded_one_and_no_other_is_made():
    image = noise(20, 20, 3)

    def unrounded():
        raise AssertionError

    assert np.array_equal(enhancer(strength=0.0).enhance(image, codec="jpeg", qp=40, unrounded=unrounded), image)
    assert np.array_equal(enhancer().enhance(image, codec="jpeg", qp=100, unrounded=unrounded), image)


def test_the_unrounded_picture_must_be_the_same_one():
    with pytest.raises(ValueError, match="shape"):
        enhancer().enhance(noise(8, 8, 3), unrounded=noise(8, 10, 3, dtype=np.uint16))
    with pytest.raises(ValueError, match="list"):
        enhancer().enhance([noise(8, 8, 3)], unrounded=noise(8, 8, 3, dtype=np.uint16))


def test_gray_is_the_mean_of_the_enhanced_channels():
    gray = noise(16, 16).astype(np.float32) / 255

    from_gray = enhancer().enhance(gray)
    from_rgb = enhancer(strength=1.0).enhance(np.stack([gray] * 3, axis=2))

    inside = ((from_rgb > 0) & (from_rgb < 1)).all(axis=2)  # the mean is taken before clamping
    np.testing.assert_allclose(from_gray[inside], from_rgb.mean(axis=2)[inside], atol=1e-6)


def test_strength_scales_the_correction():
    image = np.full((16, 16, 3), 0.5, dtype=np.float32)

    full, half, none = (enhancer(strength=strength).enhance(image) for strength in (1.0, 0.5, 0.0))

    assert np.array_equal(none, image)
    inside = (full > 0) & (full < 1)
    np.testing.assert_allclose((half - image)[inside], (full - image)[inside] / 2, atol=1e-6)
    assert np.abs(full - image).max() > 0.01


@pytest.mark.parametrize("codec", ["bpg", "vvc", "jpeg"])
def test_the_best_quality_is_left_as_it_is_and_the_next_ones_change_little(codec):
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    best, worst = QP_SCALES[codec]

    def change(share: float) -> float:
        qp = best + share * (worst - best)
        return np.abs(enhancer().enhance(image, codec=codec, qp=qp, chroma="444") - image).mean()

    assert change(0) == 0
    assert 0 < change({"bpg": 14 / 51, "vvc": 14 / 63, "jpeg": 0.03}[codec]) < 0.8 * change(0.5)


def test_a_codec_that_was_not_seen_is_told_by_another_ones_name(photograph):
    seen = json.dumps({"data": {"weights": {"bpg": 1.0, "jpeg": 0.5}}})
    checkpoint = random_checkpoint()
    checkpoint = replace(checkpoint, codecs=("bpg", "heic", "jpeg"), metadata={"training": seen})
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    decoded = get_codec("jpeg").decode(get_codec("jpeg").encode(photograph[:128, :128], 30)).image

    def restored(image=image, **known):
        return Enhancer(checkpoint, TorchBackend(checkpoint, device=CPU)).enhance(image, **known)

    assert checkpoint.unseen == ("vvc", "jpeg2000", "webp", "avif", "heic")
    assert np.array_equal(restored(codec="heic", qp=40, chroma="420"), restored(codec="bpg", qp=29, chroma="420"))
    assert np.array_equal(restored(decoded, codec="heic"), restored(decoded, codec="auto"))
    assert not np.array_equal(restored(decoded, codec="heic"), restored(decoded))
    assert not np.array_equal(restored(decoded, codec="heic", qp=40), restored(decoded, codec="auto"))
    assert checkpoint.condition("vvc", 5, "420")[1] == 0  # no codec stands in, but it is too good all the same
    assert not np.array_equal(restored(codec="bpg", qp=29), restored(codec="jpeg", qp=29))


def test_codec_and_qp_reach_the_network():
    image = noise(16, 16, 3)
    results = [
        enhancer().enhance(image, **known)
        for known in ({}, {"codec": "bpg"}, {"codec": "bpg", "qp": 30}, {"codec": "bpg", "qp": 40}, {"codec": "jpeg"})
    ]

    assert len({result.tobytes() for result in results}) == 5
    assert np.array_equal(enhancer().enhance(image, codec="webp", qp=3), results[0])  # not among its codecs


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        *((mode, mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
        *(("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("RGBa", "RGBA"), ("La", "LA")),
    ],
)
def test_pillow_images_come_back_as_pillow_images(mode, expected):
    rgba = Image.fromarray(noise(12, 14, 4))
    image = Image.fromarray(noise(12, 14, dtype=np.uint16)) if mode == "I;16" else _convert(rgba, mode)
    image.info["icc_profile"] = b"profile"

    result = enhancer().enhance(image)

    assert (result.mode, result.size) == (expected, image.size)
    assert result.info["icc_profile"] == b"profile"
    if mode in ("LA", "RGBA"):
        assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    if mode not in ("LA", "La"):  # these have no array of their own
        converted = np.asarray(image.convert(expected)) if mode != "I;16" else np.asarray(image)
        assert np.array_equal(np.asarray(result), enhancer().enhance(converted))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    by_way_of = {"La": "LA", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
    return image.convert(by_way_of.get(mode, mode)).convert(mode)


def test_a_palette_with_a_transparent_colour_gets_an_alpha_channel():
    image = Image.fromarray(noise(8, 8, 3)).quantize(8)
    image.info["transparency"] = 3

    result = enhancer().enhance(image)

    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result)[..., 3], np.where(np.asarray(image) == 3, 0, 255))
    assert "transparency" not in result.info


@pytest.mark.parametrize("shape", [(3, 9, 11), (2, 3, 9, 11)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_tensors_keep_shape_and_dtype(shape, dtype):
    values = torch.from_numpy(noise(*shape))
    x = values if dtype is torch.uint8 else (values / 255).to(dtype)

    result = enhancer().enhance(x)

    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    first = result if len(shape) == 3 else result[0]
    array = x if len(shape) == 3 else x[0]
    expected = enhancer().enhance(np.ascontiguousarray(array.permute(1, 2, 0).numpy()))
    torch.testing.assert_close(first.permute(1, 2, 0).float(), torch.from_numpy(expected).float(), atol=2e-3, rtol=0)


def test_a_list_is_a_batch_of_pictures_of_any_kind():
    images = [noise(8, 8, 3), noise(5, 9), Image.fromarray(noise(4, 4, 3))]

    results = enhancer().enhance(images, codec="bpg", qp=37)

    for image, result in zip(images, results, strict=True):
        assert type(result) is type(image)
        assert np.array_equal(np.asarray(result), np.asarray(enhancer().enhance(image, codec="bpg", qp=37)))


def test_threads_share_one_enhancer():
    shared = enhancer(tile=8)
    images = [noise(20 + i, 30, 3, seed=i) for i in range(8)]
    expected = [shared.enhance(image) for image in images]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(shared.enhance, images))

    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_running_out_of_gpu_memory_halves_the_tile(monkeypatch):
    class SmallDevice(TorchBackend):
        largest = 24 * 24

        def __call__(self, x, condition):
            if x.shape[-2] * x.shape[-1] > self.largest:
                raise torch.OutOfMemoryError("out of memory")
            return super().__call__(x, condition)

    checkpoint = random_checkpoint(attention="none", unshuffle=1, blocks=1)  # a small halo
    image = noise(40, 40, 3)

    result = Enhancer(checkpoint, SmallDevice(checkpoint, device=CPU)).enhance(image)

    expected = Enhancer(checkpoint, TorchBackend(checkpoint, device=CPU), tile=1000).enhance(image)
    assert np.abs(result.astype(int) - expected).max() <= 1
    monkeypatch.setattr(SmallDevice, "largest", 0)
    with pytest.raises(EnhancerError, match="out of memory, even with tiles of 1 pixels"):
        Enhancer(checkpoint, SmallDevice(checkpoint, device=CPU)).enhance(image)


def test_tensors_of_a_failed_attempt_are_gone_before_the_next(monkeypatch):
    """Otherwise the memory that was short would be short again."""
    failed: list[weakref.ref[torch.Tensor]] = []
    alive = []

    class FailsOnce(TorchBackend):
        def __call__(self, x, condition):
            if not failed:
                failed.append(weakref.ref(x))
                raise torch.OutOfMemoryError("out of memory")
            return super().__call__(x, condition)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(failed[0]() is not None))

    Enhancer(CHECKPOINT, FailsOnce(CHECKPOINT, device=CPU)).enhance(noise(64, 64, 3))

    assert alive == [False]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[:, :, ::-1],
        lambda image: image[::2, 1::3],
        lambda image: np.asfortranarray(image),
    ],
    ids=["rows", "columns", "channels", "steps", "fortran"],
)
def test_arrays_in_any_order_give_the_same_and_stay_as_they_are(change):
    image = noise(24, 30, 3)
    view = change(image)
    before = view.copy(order="C")

    result = enhancer().enhance(view)

    assert np.array_equal(result, enhancer().enhance(before))
    assert np.array_equal(view, before)
    assert not np.shares_memory(result, image)


def test_other_failures_of_the_backend_are_not_taken_for_a_lack_of_memory():
    class Broken(TorchBackend):
        def __call__(self, x, condition):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Enhancer(CHECKPOINT, Broken(CHECKPOINT, device=CPU)).enhance(noise(8, 8, 3))


def test_the_one_line_form_loads_the_network_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))
    path = write_random_checkpoint(tmp_path / "net.safetensors")
    image = noise(20, 20, 3)

    expected = Enhancer.from_checkpoint(path).enhance(image, codec="bpg", qp=37)

    assert np.array_equal(enhance(image, codec="bpg", qp=37, model=path), expected)
    path.unlink()
    assert np.array_equal(enhance(image, codec="bpg", qp=37, model=path), expected)


def test_progress_rises_to_one():
    shares = []
    enhancer(tile=8).enhance(noise(20, 30, 3), progress=shares.append)

    assert shares == sorted(shares)
    assert len(shares) == 3 * 4
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0.5]], "a numpy array, a PIL image or a torch tensor"),
        (np.zeros((4, 4, 2), np.uint8), r"\(H, W, 4\).*\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.full((4, 4, 3), 1.5, np.float32), r"values in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan, np.float32), r"values in \[0, 1\]"),
        (torch.zeros(4, 4, 3), r"\(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (Image.new("I", (4, 4)), "32-bit integer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        enhancer().enhance(tuple(image) if isinstance(image, list) else image)


@pytest.mark.parametrize(
    "options", [{"tile": 0}, {"tile": "large"}, {"ensemble": "all"}, {"strength": 1.5}, {"strength": -0.1}], ids=str
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        enhancer(**options)


def test_a_device_that_is_not_there_is_named(tmp_path):
    from enhancer.backends import create_backend

    with pytest.raises(EnhancerError, match="no device cuda:99 here"):
        create_backend("torch", CHECKPOINT, device="cuda:99")
    with pytest.raises(ValueError, match="device must be auto, cpu"):
        create_backend("torch", CHECKPOINT, device="toaster")
    with pytest.raises(ValueError, match="backend must be auto or one of torch"):
        create_backend("tensorflow", CHECKPOINT)
