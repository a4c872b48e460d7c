"""QECM: what its formulae do, as theory says, and the bound of its learned form."""

from math import exp, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enhancer.refiners import Context, FourierQECM, LearnedQECM, fourier_error, truncated_laplace


@pytest.mark.parametrize("terms", [1, 2, 3, 5, 10])
def test_error_of_the_series_is_that_of_theory(terms):
    """The variance of uniform rounding errors, less the power of each term."""
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 0.5

    measured = (fourier_error(t, terms) - t).square().mean().item()

    assert measured == pytest.approx(1 / 12 - sum(1 / (2 * pi**2 * k**2) for k in range(1, terms + 1)), abs=1e-7)


@given(st.floats(-1e4, 1e4, width=32), st.integers(1, 5))
def test_rounding_after_the_encoder_s_block_gives_what_rounding_alone_gives(value, terms):
    t = torch.tensor([value], dtype=torch.float64)
    if abs(abs(t - t.round()).item() - 0.5) < 1e-6:
        return  # on the border between two cells either is right

    assert torch.equal((t - fourier_error(t, terms)).round(), t.round())


@pytest.mark.parametrize("mode", ["paper", "soft"])
def test_blocks_do_nothing_on_the_integer_grid(mode):
    integers = torch.arange(-1000.0, 1000.0)
    qecm = FourierQECM(mode).eval()

    assert torch.equal(qecm.before_quantiser(integers, None), integers)
    assert torch.equal(qecm.after_quantiser(integers, None), integers)
    assert torch.equal(qecm(integers, Context()), integers)


def test_literal_block_moves_latents_that_were_rounded_relative_to_a_mean():
    latent = torch.arange(-5.0, 5.0) + 0.3

    assert not torch.equal(FourierQECM("paper").eval()(latent, Context()), latent)
    assert torch.equal(FourierQECM("soft").eval()(latent, Context()), latent)


def _variance(scale: float) -> float:
    """Of a centred Laplace distribution cut to [-1/2, 1/2], integrated by hand."""
    tail = exp(-0.5 / scale)
    return (2 * scale**2 - tail * (0.25 + scale + 2 * scale**2)) / (1 - tail)


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.3])
def test_noise_at_the_decoder_adds_its_variance(scale):
    generator = torch.Generator().manual_seed(1)
    latent = 3 * torch.randn(400_000, generator=generator, dtype=torch.float64)
    decoded = latent.round()

    noisy = FourierQECM("paper", noise_scale=scale).eval()(decoded, Context())

    error, noisy_error = ((t - latent).square().mean().item() for t in (decoded, noisy))
    assert noisy_error == pytest.approx(error + _variance(scale), rel=0.02)


def test_noise_is_the_same_for_the_same_seed_only_and_stays_in_the_cell():
    like = torch.zeros(2, 3, 40, 40)
    noise = truncated_laplace(like, mean=0.2, scale=0.3, seed=7)

    assert torch.equal(noise, truncated_laplace(like, mean=0.2, scale=0.3, seed=7))
    assert not torch.equal(noise, truncated_laplace(like, mean=0.2, scale=0.3, seed=8))
    assert noise.abs().max() <= 0.5
    assert noise.median().item() == pytest.approx(0.15, abs=0.05)  # the cut at 1/2 takes more from the upper side


def test_additive_noise_between_the_blocks_is_worst_in_the_literal_form():
    """Mean squared error of latents in training: plain, soft on both sides, literal pair."""
    generator = torch.Generator().manual_seed(0)
    y = 2 * torch.randn(100_000, generator=generator)
    noise = torch.rand(y.shape, generator=generator) - 0.5

    errors = {
        mode: (qecm.after_quantiser(qecm.before_quantiser(y, None) + noise, None) - y).square().mean().item()
        for mode in ("paper", "soft")
        if (qecm := FourierQECM(mode))
    }

    assert 1 / 12 < errors["soft"] < 0.13 < 0.3 < errors["paper"]


@pytest.mark.parametrize("context", [True, False])
def test_learned_form_moves_no_element_out_of_its_cell(context):
    torch.manual_seed(0)
    qecm = LearnedQECM(4, hidden=8, context=context).eval()
    for parameter in qecm.parameters():
        torch.nn.init.normal_(parameter, std=3)
    t, mu, sigma = 10 * torch.randn(2, 4, 9, 9), torch.randn(2, 4, 9, 9), torch.rand(2, 4, 9, 9) + 0.11

    moved = qecm(t, Context(mu, sigma)) - t

    assert 0.4 < moved.abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "hard"}, "mode must be one of paper, soft"),
        ({"mode": "soft", "noise_scale": 0.1}, "0 in mode soft"),
        ({"mode": "paper", "noise_scale": -1.0}, "noise_scale must be >= 0"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FourierQECM(**options)
