"""Refiners on learned codecs: the bitstream never changes, a fresh one changes nothing, detaching undoes all."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from learned_models import ARCHITECTURES, AUTOREGRESSIVE, INSTALLED, WITH_CONTEXT, random_model, random_picture
from torch import Tensor, nn

from enhancer.errors import CheckpointError
from enhancer.network import NetworkConfig
from enhancer.refiners import (
    Context,
    FourierQECM,
    PlainResidual,
    Refiner,
    RefinerSet,
    attach,
    detach,
    fresh_refiner,
    load_refiners,
    residual_control,
    save_refiners,
    weights_sha256,
)

pytestmark = pytest.mark.skipif(not INSTALLED, reason="CompressAI is not installed (the extra [learned])")

NETWORK = NetworkConfig(channels=8, blocks=1, unshuffle=2, cell=4, condition=3, condition_hidden=4)
PIXEL = {"network": NETWORK, "condition": (1.0, 0.5, 1.0)}
POINTS = ("qecm-learned", "qecm-picture", "fenm", "pixel")


@pytest.fixture(params=ARCHITECTURES)
def model(request) -> nn.Module:
    return random_model(request.param)


@pytest.fixture
def mean_scale() -> nn.Module:
    return random_model("MeanScaleHyperprior")


def refiner(name: str, model: nn.Module) -> Refiner:
    options = {"pixel": PIXEL, "qecm-picture": PIXEL, "fenm": {"growth": 4}}.get(name, {})
    return fresh_refiner(name, model, **options).eval()


def all_refiners(model: nn.Module) -> list[Refiner]:
    return [refiner(name, model) for name in ("qecm-soft", *POINTS)]


def trained(refiners: list[Refiner]) -> list[Refiner]:
    """Refiners that do change the picture, a little."""
    generator = torch.Generator().manual_seed(0)
    for parameter in nn.ModuleList(refiners).parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return refiners


@torch.no_grad()
def code(model: nn.Module, x: Tensor) -> tuple[list[list[bytes]], Tensor, Tensor]:
    """Strings, the picture decoded from them, and what ``forward`` gives."""
    coded = model.compress(x)
    return coded["strings"], model.decompress(coded["strings"], coded["shape"])["x_hat"], model(x)["x_hat"]


def layers_with_hooks(model: nn.Module) -> Iterator[str]:
    for name, layer in model.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks or "decompress" in vars(layer):
            yield name


def test_fresh_refiners_change_not_a_bit_and_trained_ones_only_the_picture(model):
    x = random_picture()
    strings, decoded, reconstructed = code(model, x)

    with attach(model, all_refiners(model)):
        fresh = code(model, x)
    with attach(model, trained(all_refiners(model))):
        refined = code(model, x)

    assert fresh[0] == strings == refined[0]
    assert torch.equal(fresh[1], decoded)
    assert torch.equal(fresh[2], reconstructed)
    assert not torch.allclose(refined[1], decoded, atol=1e-3)


def test_detaching_leaves_the_model_as_it_was(model):
    x = random_picture()
    before, decoder, attributes = code(model, x), model.g_s, set(vars(model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other = {name: value + 0.1 for name, value in decoder.state_dict().items()}

    attach(model, trained(all_refiners(model)), decoder=other)
    assert model.state_dict().keys() == state.keys()
    assert not torch.allclose(code(model, x)[1], before[1], atol=1e-3)
    detach(model)
    detach(model)

    assert model.g_s is decoder
    assert set(vars(model)) == attributes
    assert list(layers_with_hooks(model)) == []
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    after = code(model, x)
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2], before[2])


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_forward_and_decoding_show_a_refiner_the_same_means_and_scales(name):
    class Spy(Refiner):
        kind, point, needs_context = "spy", "latent", True

        def forward(self, t, context):
            seen.append((t, context.mu, context.sigma))
            return t

    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    model = random_model(name)

    with attach(model, [Spy({})]):
        code(model, random_picture())

    assert len(seen) == 2
    for decoded, reconstructed in zip(*seen, strict=True):
        assert torch.equal(decoded, reconstructed)
    latent, mu, sigma = seen[0]
    torch.testing.assert_close((latent - mu).round(), latent - mu, atol=1e-4, rtol=0)
    assert torch.isin(sigma, model.gaussian_conditional.scale_table).all()
    assert latent.unique().numel() > 2


def test_means_of_a_rescaled_latent_are_refused(mean_scale):
    mean_scale.g_s.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))

    with (
        attach(mean_scale, [refiner("qecm-learned", mean_scale)]),
        pytest.raises(ValueError, match="another latent than the entropy model gave"),
    ):
        mean_scale(random_picture())


def test_several_refiners_work_in_order_and_twice_is_refused(mean_scale):
    x = random_picture()

    class Add(Refiner):
        kind, point = "add", "pixel"

        def forward(self, t, context):
            return 2 * t + self.options["number"]

    with attach(mean_scale, []), torch.no_grad():
        plain = mean_scale(x)["x_hat"]
    with attach(mean_scale, [Add({"number": 1}), Add({"number": 5})]), torch.no_grad():
        refined = mean_scale(x)["x_hat"]
        with pytest.raises(ValueError, match="attached already"):
            attach(mean_scale, [])

    torch.testing.assert_close(refined, 2 * (2 * plain + 1) + 5)


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_autoregressive_models_refuse_refiners_with_context_and_stay_whole(name):
    model = random_model(name)

    with pytest.raises(ValueError, match="autoregressive"):
        attach(model, [fresh_refiner("qecm-learned", model, context=True)])

    assert list(layers_with_hooks(model)) == []


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Sequential has no g_s"):
        attach(nn.Sequential(nn.Conv2d(3, 3, 1)), [])
    with pytest.raises(ValueError, match="has no gaussian_conditional"):
        attach(random_model("FactorizedPrior"), [fresh_refiner("qecm-learned", random_model("MeanScaleHyperprior"))])


def test_tables_that_are_missing_are_named():
    model = random_model("MeanScaleHyperprior")
    model.gaussian_conditional.scale_table = torch.Tensor()

    with attach(model, [refiner("qecm-learned", model)]), pytest.raises(ValueError, match=r"call its update\(\) first"):
        model(random_picture())


def test_soft_blocks_surround_both_quantisers_in_training_only(mean_scale):
    """In training the decoder's features move off the additive noise; likelihoods see the encoder's block."""
    x = random_picture()

    def run(training: bool, refiners: list[Refiner]) -> Tensor:
        torch.manual_seed(0)
        with attach(mean_scale, refiners), torch.no_grad():
            mean_scale.train(training)
            return mean_scale(x)["x_hat"]

    soft = FourierQECM("soft")
    plain, blocks = run(True, []), run(True, [soft])
    assert not torch.allclose(plain, blocks, atol=1e-4)
    assert torch.equal(run(False, [soft]), run(False, []))


@pytest.mark.parametrize("name", POINTS)
def test_residual_control_has_the_size_of_its_refiner_at_the_same_point(name, mean_scale):
    wide = replace(NETWORK, channels=24, blocks=2)
    options = {"network": wide, "condition": (1.0, 0.0, 0.0)} if name in ("pixel", "qecm-picture") else {}
    compared = fresh_refiner(name, mean_scale, **options)
    control = residual_control(compared, mean_scale)

    sizes = [sum(p.numel() for p in each.parameters()) for each in (compared, control)]
    assert control.point == compared.point
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    with attach(mean_scale, [control]), torch.no_grad():
        refined = mean_scale(random_picture())["x_hat"]
    assert torch.equal(refined, mean_scale(random_picture())["x_hat"])


def test_picture_qecm_moves_the_latent_towards_that_of_the_restored_picture_and_stays_in_the_cell(mean_scale):
    qecm = refiner("qecm-picture", mean_scale)
    with pytest.raises(ValueError, match="attach it"):
        qecm(torch.zeros(1, 24, 1, 1), Context())
    latent = mean_scale.g_a(random_picture()).detach().round()
    picture = mean_scale.g_s(latent).clamp(0, 1)

    for std in (0.1, 0.4):  # moves of up to 0.6 and up to 7 steps, were they not bounded
        generator = torch.Generator().manual_seed(1)
        for parameter in qecm.parameters():
            nn.init.normal_(parameter, std=std, generator=generator)
        restored = qecm.restoration(picture, Context())
        wanted = mean_scale.g_a(restored) - mean_scale.g_a(picture)
        with attach(mean_scale, [qecm]):
            moved = qecm(latent, Context()) - latent
        assert moved.abs().max() <= 0.5
        assert torch.equal(moved.sign(), wanted.sign())
        small = wanted.abs() < 0.05
        assert small.any()
        assert torch.allclose(moved[small], wanted[small], atol=1e-3)


def test_pixels_of_any_size_keep_their_size():
    control, pixel = PlainResidual("pixel", 3, 4, unshuffle=2), fresh_refiner("pixel", nn.Identity(), **PIXEL)
    picture = torch.rand(1, 3, 37, 53)

    assert torch.equal(control(picture, Context()), picture)
    assert torch.equal(pixel(picture, Context()), picture)


def test_a_file_gives_back_the_refiners_and_the_decoder_of_its_own_base_only(mean_scale, tmp_path):
    x = random_picture()
    refiners = trained(all_refiners(mean_scale))
    decoder = {name: value * 1.01 for name, value in mean_scale.g_s.state_dict().items()}
    with attach(mean_scale, refiners, decoder=decoder):
        expected = code(mean_scale, x)
    path = tmp_path / "set.safetensors"
    made = RefinerSet(tuple(refiners), weights_sha256(mean_scale), decoder, metadata={"note": "a test"})

    sha256 = save_refiners(path, made)
    loaded = load_refiners(path)

    assert loaded.sha256 == sha256
    assert loaded.metadata["note"] == "a test"
    with loaded.attach(mean_scale):
        found = code(mean_scale, x)
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])
    with pytest.raises(CheckpointError, match="trained on a codec with weights"):
        loaded.attach(random_model("MeanScaleHyperprior", seed=1))


def test_the_hash_of_a_base_counts_weights_not_tables(mean_scale):
    sha256 = weights_sha256(mean_scale)
    mean_scale.update(scale_table=[0.2, 1.0, 5.0], force=True)
    assert weights_sha256(mean_scale) == sha256

    with torch.no_grad():
        mean_scale.h_s[0].bias[0] += 1e-3
    assert weights_sha256(mean_scale) != sha256


def test_half_precision_files_are_half_as_large(mean_scale, tmp_path):
    made = RefinerSet((fresh_refiner("fenm", mean_scale),), weights_sha256(mean_scale))
    save_refiners(tmp_path / "full", made)
    save_refiners(tmp_path / "half", made, half=True)

    assert (tmp_path / "half").stat().st_size < 0.55 * (tmp_path / "full").stat().st_size
    weight = load_refiners(tmp_path / "half").refiners[0].state_dict()["blocks.0.fuse.weight"]
    assert torch.equal(weight, made.refiners[0].state_dict()["blocks.0.fuse.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "not a whole safetensors file"),
        (lambda data: b"", "not a whole safetensors file"),
        (lambda data: data.replace(b'"enhancer-refiners"', b'"enhancer-refinery"'), "holds no refiners"),
        (lambda data: data.replace(b'"version":"1"', b'"version":"9"'), "format version 9"),
        (lambda data: data.replace(b'growth\\":', b"growing\\")[: len(data)], "does not fit|not a whole"),
        (lambda data: data.replace(b'\\"fenm\\"', b'\\"femm\\"'), "does not fit the architecture"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(change, message, mean_scale, tmp_path):
    path = tmp_path / "set.safetensors"
    save_refiners(path, RefinerSet((fresh_refiner("fenm", mean_scale),), "0" * 64))
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(CheckpointError, match=message) as caught:
        load_refiners(path)
    assert "\n" not in str(caught.value)


def test_unknown_refiners_are_named(mean_scale):
    with pytest.raises(ValueError, match="unknown refiner 'sharpen'; known: qecm-paper"):
        fresh_refiner("sharpen", mean_scale)
