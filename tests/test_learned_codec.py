"""The learned codecs with small random models: exact streams, any picture, and one line for all that is wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.learned.loader import missing_modules

if missing_modules():
    pytest.skip("the extra [learned] is not installed", allow_module_level=True)

from codec_command import assert_failed, isolate, pixels, run_codec
from learned_weights import random_model, write_weights
from picture_files import psnr

from codec_wrappers import REGISTRY, Codec, get_codec, identify
from codec_wrappers.base import bits_per_pixel
from codec_wrappers.encode_cache import encode_key
from codec_wrappers.errors import BitstreamError, CodecError, CodecUnavailableError, RateControlError, UnknownCodecError
from codec_wrappers.learned.codec import LearnedCodec, MshCodec, VraeCodec
from codec_wrappers.learned.coding import to_image, to_tensor
from codec_wrappers.learned.container import read_file, write_file
from codec_wrappers.learned.refining import named_refiners
from codec_wrappers.learned.weights import WeightsError, find_weights
from codec_wrappers.rate_control import encode_to_bytes
from enhancer.errors import CheckpointError
from enhancer.refiners import FEnM, RefinerSet, fresh_refiner, save_refiners, weights_sha256

ROOT = Path(__file__).resolve().parent.parent
OURS = ("msh", "vrae", "msh-sf")
RATE = 0.18
SIZES = [(1, 1), (37, 53), (513, 1), (64, 128)]


@pytest.fixture(scope="module")
def picture(photograph):
    return np.ascontiguousarray(photograph[:190, :250])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of each kind, ``KIND.safetensors``, and a folder ``two`` with two of ``msh``."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in OURS:
        write_weights(folder / f"{kind}.safetensors", random_model(kind))
    (folder / "two").mkdir()
    tables = []
    for number, value in enumerate((0.05, 0.002)):
        path = folder / "two" / f"{number}.safetensors"
        write_weights(path, random_model("msh", seed=number, lambdas=(value,)))
        (entry,) = find_weights("msh", str(path))
        tables.append(f'[m{number}]\nfile="{path.name}"\nsha256="{entry.sha256}"\nmodel="msh"\nlambdas=[{value}]\n')
    (folder / "two" / "learned.toml").write_text("".join(tables))
    return folder


@pytest.fixture
def codec(folder):
    def make(name: str, **options) -> Codec:
        return get_codec(name, weights=str(folder / f"{name}.safetensors"), **options)

    return make


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OURS)
def test_the_decoder_gives_the_picture_that_the_model_means(codec, picture, name, size):
    """That is: what ``forward`` makes of the rounded latents, without any stream."""
    image = np.resize(picture, (*size, 3))
    codec = codec(name)
    qp = codec.qp_range.high
    model = codec._model(codec._weights_for(qp), name)

    bitstream = codec.encode(image, qp)
    decoded = codec.decode(bitstream)

    model.set_quality(1.0)
    with torch.no_grad():
        meant = model(to_tensor(image, 64))["x_hat"][0, :, : size[0], : size[1]]
    difference = np.abs(decoded.image.astype(int) - to_image(meant, gray=False, bit_depth=8))
    assert decoded.image.shape == image.shape
    assert difference.max() <= 1
    assert (decoded.info.codec, decoded.info.qp, decoded.info.chroma) == (name, qp, "444")
    assert identify(bitstream) == name
    assert [c.name for c in REGISTRY if c.matches(bitstream[:64])] == [name]
    assert codec.encode(image, qp) == bitstream
    assert np.array_equal(codec.decode(bitstream).image, decoded.image)


@pytest.mark.parametrize("name", OURS)
def test_streams_are_as_long_as_the_entropy_says(codec, photograph, name):
    image = photograph[:192, :256]
    codec = codec(name)
    model = codec._model(codec._weights_for(codec.qp_range.high), name)
    model.set_quality(1.0)

    file = read_file(codec.encode(image, codec.qp_range.high))

    with torch.no_grad():
        likelihoods = model(to_tensor(image, 64))["likelihoods"].values()
    estimate = sum(-values.log2().sum().item() for values in likelihoods) / 8
    assert estimate > 1000
    assert abs(sum(map(len, file.streams)) - estimate) < max(0.01 * estimate, 64)


def test_a_fresh_process_in_another_folder_decodes_the_same_bytes(codec, picture, tmp_path):
    mine = codec("vrae")
    bitstream = mine.encode(picture, 128)
    (tmp_path / "x.bin").write_bytes(bitstream)
    program = (
        "import sys; from codec_wrappers import get_codec, identify\n"
        "data = open('x.bin', 'rb').read()\n"
        "image = get_codec(identify(data), weights=sys.argv[1]).decode(data).image\n"
        "open('x.raw', 'wb').write(image.tobytes())"
    )

    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}", mine.weights]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert (tmp_path / "x.raw").read_bytes() == mine.decode(bitstream).image.tobytes()


def test_gray_and_sixteen_bits_come_back_as_such(codec, picture):
    codec = codec("msh")
    gray = np.ascontiguousarray(picture[:40, :50, 1])

    of_gray = codec.decode(codec.encode(gray, 1))
    of_three = codec.decode(codec.encode(np.repeat(gray[..., None], 3, axis=2), 1))
    deep = codec.decode(codec.encode(gray.astype(np.uint16) * 257, 1))

    assert (of_gray.image.shape, of_gray.image.dtype, of_gray.info.chroma) == (gray.shape, np.uint8, "400")
    assert np.abs(of_gray.image - of_three.image.mean(axis=2)).max() <= 1
    assert (deep.image.dtype, deep.info.bit_depth) == (np.uint16, 16)
    assert np.abs(deep.image / 257 - of_gray.image).max() <= 0.51
    assert len(np.unique(deep.image % 257)) > 10  # not eight bits made wide


@pytest.mark.parametrize("name", ["vrae", "msh-sf"])
def test_one_network_spans_rates_that_rise_with_the_quality_in_the_file(codec, picture, name):
    files = [codec(name).encode(picture, qp) for qp in (0, 60, 128, 190, 255)]
    sizes = [len(file) for file in files]

    assert [read_file(file).quality for file in files] == [0, 60, 128, 190, 255]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] > 1.3 * sizes[0]
    assert len({read_file(file).weights for file in files}) == 1


def test_cached_streams_are_those_of_the_weights_at_hand(folder, picture, tmp_path):
    weights = tmp_path / "weights.safetensors"
    keys = []
    for number in (0, 1):
        weights.write_bytes((folder / "two" / f"{number}.safetensors").read_bytes())
        keys.append(encode_key(MshCodec(weights=str(weights)), picture, 1))

    assert keys[0] != keys[1]


def test_msh_has_a_network_for_each_quality_by_rising_lambda(folder, picture):
    codec = MshCodec(weights=str(folder / "two"))
    digests = [entry.digest for entry in find_weights("msh", codec.weights)]

    files = [read_file(codec.encode(picture, qp)) for qp in (1, 2)]

    assert (codec.qp_range.low, codec.qp_range.high) == (1, 2)
    assert [entry.lambdas for entry in find_weights("msh", codec.weights)] == [(0.002,), (0.05,)]
    assert [file.weights for file in files] == digests
    assert [codec.decode(write_file(file)).info.qp for file in files] == [1, 2]
    with pytest.raises(ValueError, match=r"1\.\.2, got 3"):
        codec.encode(picture, 3)


def test_msh_meets_a_size_between_its_networks_by_its_step(codec, picture):
    codec = codec("msh")
    sizes = {step: len(replace(codec, step=step).encode(picture, 1)) for step in (0.8, 1.0, 1.3)}
    target = (sizes[1.0] + sizes[1.3]) // 2

    found = encode_to_bytes(codec, picture, target)

    assert sizes[0.8] > sizes[1.0] > sizes[1.3]
    assert 0.97 * target < len(found.bitstream) <= target
    assert 1.0 < found.codec.step < 1.3
    assert found.codec.encode(picture, found.qp) == found.bitstream
    assert read_file(found.bitstream).step == pytest.approx(found.codec.step, rel=0.003)
    for step in (0.4, 2.0):
        with pytest.raises(ValueError, match="step must be"):
            replace(codec, step=step)


def test_vrae_meets_a_target_rate_or_says_what_it_reaches(codec, picture):
    codec = codec("vrae")
    low, high = (len(codec.encode(picture, qp)) for qp in (0, 255))
    target = (low + high) // 2

    found = encode_to_bytes(codec, picture, target)

    assert 0.95 * target < len(found.bitstream) <= target
    assert found.bpp == bits_per_pixel(found.bitstream, picture)
    with pytest.raises(RateControlError, match=f"{low} to {high} bytes"):
        encode_to_bytes(codec, picture, low - 1)


def test_other_and_damaged_weights_are_refused(folder, picture, tmp_path):
    bitstream = VraeCodec(weights=str(folder / "vrae.safetensors")).encode(picture, 9)
    digest = read_file(bitstream).weights.hex()
    other = write_weights(tmp_path / "other.safetensors", random_model("vrae", seed=2))
    data = bytearray((folder / "two" / "0.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "0.safetensors").write_bytes(data)
    (tmp_path / "1.safetensors").write_bytes((folder / "two" / "1.safetensors").read_bytes())
    (tmp_path / "learned.toml").write_text((folder / "two" / "learned.toml").read_text())
    (tmp_path / "short.safetensors").write_bytes(Path(other).read_bytes()[:-9])

    with pytest.raises(CodecUnavailableError, match=f"{digest}.* of vrae, not among those here: other"):
        VraeCodec(weights=other).decode(bitstream)
    with pytest.raises(WeightsError, match="damaged"):
        MshCodec(weights=str(tmp_path)).encode(picture, 2)
    with pytest.raises(WeightsError, match="does not fit the model"):
        VraeCodec(weights=str(tmp_path / "short.safetensors")).encode(picture, 2)
    with pytest.raises(WeightsError, match="weights of vrae, not of msh"):
        MshCodec(weights=other).encode(picture, 1)
    with pytest.raises(WeightsError, match="no weights file"):
        MshCodec(weights=__file__).encode(picture, 1)
    with pytest.raises(WeightsError, match="neither a weights file nor a folder"):
        MshCodec(weights=str(tmp_path / "nowhere")).encode(picture, 1)
    with pytest.raises(BitstreamError, match="a file of vrae, not of msh"):
        MshCodec(weights=str(folder / "msh.safetensors")).decode(bitstream)


@settings(max_examples=60)
@given(data=st.data())
def test_forged_streams_never_do_more_than_fail(folder, data):
    """With a right checksum they reach the entropy decoder, which itself never looks where its input ends."""
    codec = MshCodec(weights=str(folder / "msh.safetensors"))
    image = np.random.default_rng(3).integers(0, 256, (20, 70, 3), np.uint8)
    file = read_file(codec.encode(image, 1))
    stream = st.binary(max_size=300) | st.binary(min_size=1, max_size=4).map(lambda part: part * 50)
    which = data.draw(st.integers(0, 2))
    forged = data.draw(stream)
    streams = ((forged, file.streams[1]), (file.streams[0], forged), (forged,))[which]

    with pytest.raises(BitstreamError, match=r"latents|do not fit"):
        codec.decode(write_file(replace(file, streams=streams)))
    try:
        decoded = codec.decode(write_file(replace(file, width=data.draw(st.integers(1, 300)))))
    except BitstreamError:
        return
    assert decoded.image.shape[0] == 20


def test_large_pictures_are_refused_before_anything_is_made(codec, picture):
    file = read_file(codec("msh").encode(picture, 1))

    with pytest.raises(BitstreamError, match="above the limit"):
        codec("msh").decode(write_file(replace(file, width=2**31, height=2**31)))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4))])
def test_pictures_of_other_kinds_are_refused(codec, wrong):
    with pytest.raises(ValueError, match="image must"):
        codec("msh").encode(wrong, 1)


def test_without_compressai_everything_says_how_to_get_it(codec, picture, monkeypatch):
    bitstream = codec("msh").encode(picture, 1)
    monkeypatch.setattr("codec_wrappers.learned.codec.missing_modules", lambda: ("compressai",))

    for call in (lambda: codec("msh").encode(picture, 1), lambda: codec("msh").decode(bitstream)):
        with pytest.raises(CodecUnavailableError, match=r"need compressai; .*\[learned\].*--no-deps compressai"):
            call()
    assert all(not c.availability()[0].available for c in REGISTRY if c.name in (*OURS, "learned"))


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean", "cheng2020-anchor"])
def test_zoo_models_code_with_the_weights_of_a_local_file(picture, tmp_path, architecture):
    from codec_wrappers.learned.storage import zoo_architectures

    torch.manual_seed(0)
    kind = zoo_architectures()[architecture]
    model = kind(8) if architecture.startswith("cheng") else kind(8, 12)
    path = tmp_path / "weights.pth.tar"
    torch.save(model.state_dict(), path)
    codec = get_codec(f"learned:{architecture}:3", weights=str(path))

    bitstream = codec.encode(picture[:40, :70], 3)
    decoded = LearnedCodec(weights=str(path)).decode(bitstream)

    assert decoded.image.shape == (40, 70, 3)
    assert (decoded.info.codec, decoded.info.qp) == ("learned", 3)
    assert read_file(bitstream).model == f"learned:{architecture}"
    assert identify(bitstream) == "learned"
    assert np.array_equal(codec.decode(bitstream).image, decoded.image)
    with pytest.raises(ValueError, match=r"3\.\.3"):
        codec.encode(picture, 4)


def test_zoo_models_need_a_name_that_is_known_and_weights_that_fit(picture, tmp_path):
    import pickle

    (tmp_path / "bad.pth.tar").write_bytes(pickle.dumps(print))
    weights = str(tmp_path / "bad.pth.tar")

    with pytest.raises(CodecUnavailableError, match="weights=FILE"):
        get_codec("learned:mbt2018:2").encode(picture, 2)
    with pytest.raises(UnknownCodecError, match="unknown zoo model 'vgg'; known: bmshj2018-factorized"):
        get_codec("learned:vgg:2", weights=weights).encode(picture, 2)
    with pytest.raises(WeightsError, match="no weights of mbt2018"):
        get_codec("learned:mbt2018:2", weights=weights).encode(picture, 2)
    with pytest.raises(ValueError, match="1 to 8"):
        get_codec("learned:mbt2018:9")


def test_refiners_are_named_in_the_file_and_change_nothing_else_of_it(codec, folder, picture, tmp_path):
    plain = codec("msh")
    model = plain._model(plain._weights_for(1), "msh")
    fenm = fresh_refiner("fenm", model)
    assert isinstance(fenm, FEnM)
    paths = [str(tmp_path / name) for name in ("fresh.safetensors", "trained.safetensors", "foreign.safetensors")]
    base = weights_sha256(model)
    save_refiners(Path(paths[0]), RefinerSet((fenm,), base))
    for parameter in fenm.parameters():
        parameter.data += 0.1
    save_refiners(Path(paths[1]), RefinerSet((fenm,), base))
    save_refiners(Path(paths[2]), RefinerSet((fenm,), weights_sha256(random_model("msh", seed=5))))
    expected = plain.decode(plain.encode(picture, 1)).image

    files = [codec("msh", refiners=path).encode(picture, 1) for path in paths[:2]]

    for path, file in zip(paths[:2], files, strict=True):
        assert [tag.name for tag in read_file(file).refiners] == [Path(path).stem]
        assert write_file(replace(read_file(file), refiners=())) == plain.encode(picture, 1)
    assert len({codec("msh", refiners=path).fingerprint() for path in ("", *paths)}) == 4
    assert np.array_equal(codec("msh", refiners=paths[0]).decode(files[0]).image, expected)
    assert not np.array_equal(codec("msh", refiners=paths[1]).decode(files[1]).image, expected)
    assert np.array_equal(plain.decode(files[1], refiners=()).image, expected)  # and nothing stays attached
    with pytest.raises(CodecUnavailableError, match=r"asks for refiners fresh .* which are not shipped"):
        plain.decode(files[0])
    with pytest.raises(CodecUnavailableError, match=r"asks for refiners fresh .*, but .*trained.safetensors has"):
        codec("msh", refiners=paths[1]).decode(files[0])
    with pytest.raises(CheckpointError, match="trained on a codec with weights"):
        codec("msh", refiners=paths[2]).encode(picture, 1)
    foreign = write_file(replace(read_file(files[0]), refiners=(named_refiners(paths[2], "")[0],)))
    with pytest.raises(CheckpointError, match="trained on a codec with weights"):
        codec("msh", refiners=paths[2]).decode(foreign)


def test_the_shipped_refiners_are_worth_their_seconds(photograph, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    crop = np.ascontiguousarray(photograph[:192, :256])
    file = get_codec("msh", refiners="pixel").encode(crop, 2)  # those shipped for the weights of qp 2
    assert file == get_codec("msh", refiners="refiner-msh-0054-pixel").encode(crop, 2)

    refined, plain = get_codec("msh").decode(file), get_codec("msh").decode(file, refiners=())

    assert psnr(refined.image, crop) > psnr(plain.image, crop) + 0.1
    assert np.array_equal(get_codec("msh", refiners="pixel").decode(file).image, refined.image)
    with pytest.raises(CodecUnavailableError, match="no refiners sharpen are shipped for learned-msh-0054"):
        get_codec("msh", refiners="sharpen").encode(crop, 2)


def test_the_command_encodes_to_a_rate_and_decodes(folder, picture, tmp_path, capsys, monkeypatch):
    from PIL import Image as PillowImage

    isolate(tmp_path, monkeypatch)
    PillowImage.fromarray(picture).save(tmp_path / "x.png")
    weights = ("--option", f"weights={folder / 'vrae.safetensors'}")
    coded, decoded, damaged = (tmp_path / name for name in ("x.bin", "y.png", "z.bin"))

    arguments = (tmp_path / "x.png", "-o", coded, "--codec", "vrae", "--bpp", RATE, *weights)
    assert run_codec(capsys, "encode", *arguments)[0] == 0
    assert run_codec(capsys, "decode", coded, "-o", decoded, *weights)[0] == 0
    damaged.write_bytes(coded.read_bytes()[:-1] + b"\0")

    assert 0.95 * RATE < bits_per_pixel(coded.read_bytes(), picture) <= RATE
    assert pixels(decoded).shape == picture.shape
    assert_failed(run_codec(capsys, "decode", damaged, "-o", tmp_path / "n.png", *weights), "the checksum differs")
    zoo = ("encode", tmp_path / "x.png", "-o", tmp_path / "x.lic", "--codec", "learned:mbt2018:1", "--qp", 1)
    assert_failed(run_codec(capsys, *zoo), "weights=FILE", tmp_path / "x.lic")


def test_errors_are_the_packages_own():
    assert issubclass(WeightsError, CodecError)
