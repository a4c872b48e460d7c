"""Facts about the restoration network: sizes, identity, conditioning, locality."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from codec_wrappers import get_codec
from codec_wrappers.jpeg_tables import scaled_tables
from enhancer.condition import CODECS, condition_size, condition_vector, stand_in, trust
from enhancer.network import (
    NetworkConfig,
    RestorationNetwork,
    SpatialAttention,
    bound_mean,
    half_dc_step,
    kmac_per_pixel,
    parameter_count,
)

PAPER = NetworkConfig(channels=64, blocks=30, unshuffle=1, attention="both", reduction=16, cell=16)
SMALL = NetworkConfig(channels=8, blocks=3, unshuffle=2, attention="both", reduction=2, cell=4)


def randomised(config: NetworkConfig, seed: int = 0) -> RestorationNetwork:
    """A network in which nothing is zero."""
    network = RestorationNetwork(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def condition(codec: str | None = None, qp: float | None = None) -> Tensor:
    return condition_vector(CODECS, codec, qp).unsqueeze(0)


def test_a_fresh_network_is_the_identity():
    x = torch.rand(2, 3, 16, 24)

    assert torch.equal(RestorationNetwork(SMALL)(x, condition("bpg", 37).repeat(2, 1)), x)


def test_the_paper_s_network_has_the_size_worked_out_by_hand():
    block = 2 * (64 * 64 * 9 + 64) + (64 * 4 + 4 + 4 * 64 + 64) + (2 * 49 + 1)
    trunk = 30 * block + (64 * 64 * 9 + 64)
    ends = (3 * 64 * 9 + 64) + (64 * 3 * 9 + 3)
    modulation = (11 * 64 + 64) + (64 * 30 * 64 + 30 * 64) + (11 + 1)

    assert parameter_count(RestorationNetwork(PAPER)) == trunk + ends + modulation


@pytest.mark.parametrize("attention", ["none", "channel", "spatial", "both"])
@pytest.mark.parametrize("unshuffle", [1, 2])
def test_stated_cost_is_the_cost_of_the_convolutions_run(attention, unshuffle):
    config = replace(SMALL, attention=attention, unshuffle=unshuffle)
    network, macs = RestorationNetwork(config).eval(), 0

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.rand(1, 3, 32, 48), condition())

    assert macs / (32 * 48) / 1000 == pytest.approx(kmac_per_pixel(config))


def test_shipped_designs_keep_their_cost_limits():
    assert kmac_per_pixel(NetworkConfig(channels=48, blocks=5, unshuffle=2, attention="channel", reduction=4)) < 60
    assert kmac_per_pixel(NetworkConfig(channels=64, blocks=10, unshuffle=2, attention="channel", reduction=4)) < 200


@pytest.mark.parametrize("other", [("bpg", 22), ("vvc", 37), ("bpg", None), (None, None)], ids=str)
def test_the_condition_changes_the_output(other):
    network, x = randomised(SMALL), torch.rand(1, 3, 16, 16)

    assert (network(x, condition("bpg", 37)) - network(x, condition(*other))).abs().max() > 1e-4


@pytest.mark.parametrize("mean_bound", [0.0, 0.25])
@pytest.mark.parametrize("attention", ["none", "channel", "spatial", "both"])
def test_nothing_beyond_the_halo_matters_and_something_at_its_rim_does(attention, mean_bound):
    network = randomised(replace(SMALL, attention=attention, mean_bound=mean_bound)).double()
    side = 2 * network.halo + 2 * network.multiple
    x = torch.rand(1, 3, 16, side, dtype=torch.float64)
    changed = x.clone()
    changed[..., : side // 2 - network.multiple] += 0.5
    difference = (network(x, condition().double()) - network(changed, condition().double())).abs().amax((0, 1, 2))

    reach = int(difference.nonzero().max()) + 1 - (side // 2 - network.multiple)
    assert network.halo - 2 * network.multiple < reach <= network.halo


@pytest.mark.parametrize(("shift", "left"), [(-2.0, -0.25), (-0.1, -0.1), (0.0, 0.0), (0.2, 0.2), (3.0, 0.25)])
def test_a_correction_keeps_its_detail_and_no_more_than_the_bound_of_its_mean(shift, left):
    detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 24).expand(1, 3, -1, -1)

    bounded = bound_mean((detail + shift) / 255, 0.25) * 255

    torch.testing.assert_close(bounded, detail + left)
    assert torch.equal(bound_mean(detail + shift, 0), detail + shift)


def test_the_bound_holds_where_the_mean_is_too_large_and_nowhere_else():
    correction = torch.zeros(1, 3, 16, 160)
    correction[..., 80:] = 2 / 255

    change = bound_mean(correction, 0.25) - correction

    assert torch.equal(change[..., :48], torch.zeros(1, 3, 16, 48))
    torch.testing.assert_close(change[..., -48:], torch.full((1, 3, 16, 48), -1.75 / 255))
    assert (change[..., 1:] - change[..., :-1]).max() < 1e-6  # one slope, without steps
    assert (change[..., 1:] - change[..., :-1]).min() > -0.08 / 255


@pytest.mark.parametrize("quality", [5, 10, 20, 35, 50, 75, 90, 100])
def test_jpeg_may_be_off_by_half_a_step_of_its_dc_coefficient(quality):
    severity = condition_vector(CODECS, "jpeg", quality)[-2]
    step = scaled_tables(quality)[0][0]

    assert float(half_dc_step(severity)) == pytest.approx(step / 16, abs=0.07)


def test_only_jpegs_of_low_quality_have_a_wider_bound():
    network = RestorationNetwork(replace(SMALL, mean_bound=0.25, jpeg_place=CODECS.index("jpeg")))
    told = [("jpeg", 10), ("jpeg", 25), ("jpeg", 95), ("jpeg", None), ("bpg", 51), ("vvc", 63), (None, None)]
    conditions = torch.stack([condition_vector(CODECS, codec, qp) for codec, qp in told])

    bounds = network.mean_bound(conditions)

    torch.testing.assert_close(bounds.flatten(), torch.tensor([5.0, 2.0, 0.25, 0.25, 0.25, 0.25, 0.25]))
    correction = torch.full((len(told), 3, 16, 16), 9 / 255)
    torch.testing.assert_close(bound_mean(correction, bounds), (bounds / 255).expand_as(correction))
    assert RestorationNetwork(replace(SMALL, mean_bound=0.25)).mean_bound(conditions) == 0.25


def test_a_bounded_network_needs_whole_squares():
    assert NetworkConfig(unshuffle=2, attention="none").multiple == 2
    assert NetworkConfig(unshuffle=2, attention="none", mean_bound=0.25).multiple == 8
    assert NetworkConfig(unshuffle=1, cell=12, mean_bound=0.25).multiple == 24


def test_condition_vector_by_hand():
    codecs = ("bpg", "jpeg")

    assert condition_size(codecs) == 6
    assert condition_vector(codecs, "bpg", 25.5).tolist() == [1, 0, 0, 0, 0.5, 1]
    assert condition_vector(codecs, "bpg", 25.5, "444").tolist() == [1, 0, 0, 1, 0.5, 1]
    assert condition_vector(codecs, "jpeg", 100, "420").tolist() == [0, 1, 0, -1, 0, 1]
    assert condition_vector(codecs, "jpeg", None).tolist() == [0, 1, 0, 0, 0, 0]
    assert condition_vector(codecs, "vvc", 37, "420").tolist() == [0, 0, 1, 0, 0, 0]
    assert condition_vector(codecs, None, 37, "444").tolist() == [0, 0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="chroma must be one of"):
        condition_vector(codecs, "bpg", 37, "4:2:0")


@pytest.mark.parametrize(
    ("codec", "qp", "chroma", "share"),
    [
        *[("bpg", 1, "420", 0.0), ("bpg", 7, "420", 0.5), ("bpg", 12, "420", 1.0), ("bpg", 8, "444", 0.0)],
        *[("bpg", 8, None, 0.0), ("vvc", -2, "420", 0.0), ("vvc", 14, "422", 0.5), ("vvc", 34, "420", 1.0)],
        *[("jpeg", 100, "420", 0.0), ("jpeg", 98, "420", 0.5), ("jpeg", 98, "444", 0.25), ("jpeg", 10, "444", 1.0)],
        *[("webp", 100, "420", 1.0), ("bpg", None, "420", 1.0), (None, 1, None, 1.0)],
        *[("heic", 100, "420", 1.0), ("heic", 83, "444", 0.5), ("avif", 100, "420", 1.0), ("avif", 100, "444", 0.0)],
    ],
)
def test_corrections_fade_towards_the_best_qualities(codec, qp, chroma, share):
    assert trust(codec, qp, chroma) == pytest.approx(share)


@pytest.mark.parametrize(
    ("codec", "qp", "expected"),
    [
        *[("heic", 50, ("bpg", 24.0)), ("avif", 100, ("bpg", 0.0)), ("avif", 50, ("bpg", 29.6))],
        *[("jpeg2000", 400, ("bpg", 25.5)), ("heic", None, ("bpg", None)), ("msh", 3, (None, None))],
    ],
)
def test_another_codec_stands_in_for_one_that_was_not_seen(codec, qp, expected):
    name, other = stand_in(codec, qp)

    assert (name, other if other is None else round(other, 6)) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("channels", 0), ("blocks", -1), ("cell", 1.5), ("attention", "all"), ("mean_bound", -1.0)),
        *(("jpeg_place", 11), ("jpeg_place", -2), ("jpeg_place", 0.5)),
    ],
)
def test_impossible_sizes_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        NetworkConfig(**{key: value})


@pytest.mark.parametrize("name", CODECS)
def test_severity_runs_within_the_codec_s_own_range_in_its_direction(name):
    qps = get_codec(name).qp_range
    best, worst = (qps.high, qps.low) if qps.rate_rises else (qps.low, qps.high)

    severities = [float(condition_vector(CODECS, name, qp)[-2]) for qp in (best, worst)]

    assert severities[0] == pytest.approx(0, abs=0.01)
    assert severities[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(16, 24), (6, 10)])
def test_the_forms_for_training_give_the_same_and_have_the_same_gradients(size):
    network = randomised(replace(SMALL, unshuffle=1, cell=2)).double()
    x = torch.rand(2, 3, *size).double()
    results = []
    for training in (True, False):
        y = network.train(training)(x, condition("bpg", 37).double().repeat(2, 1))
        gradients = torch.autograd.grad(y.square().sum(), list(network.parameters()))
        results.append([y, *gradients])

    for trained, used in zip(*results, strict=True):
        torch.testing.assert_close(trained, used, rtol=1e-9, atol=1e-9)


def test_the_maximum_over_channels_is_the_same_in_training_and_has_its_gradient():
    attention = SpatialAttention().train()
    x = torch.randn(2, 6, 9, 7, requires_grad=True)

    trained = attention._maximum(x)
    (gradient,) = torch.autograd.grad(trained.sum(), x)

    assert torch.equal(trained, attention.eval()._maximum(x))
    assert torch.equal(gradient, (x == x.amax(dim=1, keepdim=True)).float())
