"""The learned codecs' networks: their tables, their gains, their modulations, and the way to CompressAI."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from codec_wrappers.learned.loader import load_compressai, missing_modules

if missing_modules():
    pytest.skip("the extra [learned] is not installed", allow_module_level=True)

from learned_weights import random_model

from codec_wrappers.learned.models import (
    KINDS,
    ChannelGain,
    ModelConfig,
    Modulation,
    Step,
    build,
    gaussian_tables,
    one_thread,
)
from codec_wrappers.learned.storage import dump_model, parse_model

ROOT = Path(__file__).resolve().parent.parent


def test_the_loader_needs_neither_torchvision_nor_the_rest():
    program = (
        "import sys\n"
        "for name in ('torchvision', 'torch_geometric', 'pandas', 'matplotlib'): sys.modules[name] = None\n"
        "from codec_wrappers.learned.loader import load_compressai\n"
        "package = load_compressai()\n"
        "from compressai.models import Cheng2020Attention\n"
        "assert package is sys.modules['compressai'] and package.__version__"
    )

    run = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr


def test_tables_in_double_precision_are_compressai_s_but_for_rounding():
    load_compressai()
    from compressai.models import MeanScaleHyperprior

    theirs = MeanScaleHyperprior(8, 12)
    theirs.update(force=True)
    conditional = theirs.gaussian_conditional

    scales, cdf, length, offset = gaussian_tables()

    assert np.allclose(scales, conditional.scale_table.numpy(), rtol=1e-5)
    assert np.array_equal(length, conditional._cdf_length.numpy())
    assert np.array_equal(offset, conditional._offset.numpy())
    assert np.abs(cdf - conditional._quantized_cdf.numpy()).max() <= 2  # of 65536


def test_table_indexes_are_compressai_s():
    model = random_model("msh")
    z_hat = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(0)) * 3

    indexes, means = model._entropy_parameters(z_hat)

    with torch.no_grad():
        scales, expected = model.h_s(z_hat).chunk(2, 1)
    assert torch.equal(indexes, model.gaussian_conditional.build_indexes(scales))
    torch.testing.assert_close(means, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_and_code_alike(kind):
    model = random_model(kind)
    data = dump_model(model, {"steps": "7"}, half=False)[0]
    loaded = parse_model(data, Path("x"))
    x = torch.rand(1, 3, 64, 64)

    assert len(dump_model(model)[0]) < 0.7 * len(data)
    for name, tensor in loaded.state_dict().items():
        if not name.startswith("entropy_bottleneck.") or "matrices" in name:
            assert torch.equal(tensor, model.state_dict()[name]), name
    with torch.no_grad():
        coded = loaded.compress(x)
        assert loaded.decompress(coded["strings"], coded["shape"])["check"] == coded["check"]
        assert parse_model(data, Path("x")).compress(x)["strings"] == coded["strings"]


def test_the_step_divides_latents_before_and_multiplies_them_after():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    before, after = Step(inverse=False), Step(inverse=True)
    assert before(x) is x

    before.position = after.position = 4.0

    assert torch.equal(before(x), x / 4)
    assert torch.equal(after(x), x * 4)


def test_gains_between_two_qualities_are_their_geometric_mean():
    gain = ChannelGain([math.log(0.25), 0.0, math.log(9.0)], channels=2)
    ones = torch.ones(1, 2, 1, 1)

    values = []
    for position in (0.0, 0.25, 0.5, 0.75, 1.0):
        gain.position = position
        values.append(gain(ones).flatten().tolist())

    assert np.allclose(values, [[v, v] for v in (0.25, 0.5, 1.0, 3.0, 9.0)])


def test_gains_start_with_the_square_root_of_lambda_and_undo_each_other():
    model = build(ModelConfig("msh-sf", 8, 12, (0.002, 0.008, 0.032)))
    encoder, decoder = (module for module in model.modules() if isinstance(module, ChannelGain))

    assert torch.allclose(encoder.log_gain[:, 0].exp(), torch.tensor([0.25, 0.5, 1.0]))
    assert torch.equal(encoder.log_gain, -decoder.log_gain)
    assert encoder.log_gain.shape == (3, 12)


def test_modulation_is_exp_fc_relu_fc_and_starts_as_a_line_in_log_lambda():
    torch.manual_seed(0)
    fresh = Modulation(channels=3, hidden=4, span=2.0)
    ones = torch.ones(1, 3, 1, 1)
    for position in (0.0, 0.5, 1.0):
        fresh.position = position
        assert torch.allclose(fresh(ones), ones * math.exp(2.0 * (position - 1)))

    torch.nn.init.normal_(fresh.second.weight)
    fresh.position = 0.3
    hidden = np.maximum(fresh.first.weight.detach().numpy()[:, 0] * 0.3 + fresh.first.bias.detach().numpy(), 0)
    by_hand = np.exp(fresh.second.weight.detach().numpy() @ hidden + fresh.second.bias.detach().numpy())

    assert np.allclose(fresh(ones).detach().flatten(), by_hand, rtol=1e-5)


def test_every_convolution_of_vrae_is_modulated():
    """Analysis: after it, as wide as its output; synthesis: before it, as wide as its input (Yang et al., 2020)."""
    model = build(ModelConfig("vrae", 8, 12, (0.001, 0.1)))
    convolutions = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)

    for name, step, width in (("g_a", 1, "out"), ("h_a", 1, "out"), ("g_s", -1, "in"), ("h_s", -1, "in")):
        layers = list(getattr(model, name))
        places = [i for i, layer in enumerate(layers) if isinstance(layer, convolutions)]
        assert len(places) == (4 if name.startswith("g") else 3)
        for place in places:
            modulation = layers[place + step]
            assert isinstance(modulation, Modulation)
            assert modulation.second.out_features == getattr(layers[place], f"{width}_channels")


@pytest.mark.parametrize(
    ("kind", "lambdas", "message"),
    [("tiny", (0.1,), "kind must be"), ("msh", (0.1, 0.2), "of msh"), ("vrae", (0.2, 0.1), "rising"),
     ("msh-sf", (0.1,), "of msh-sf"), ("vrae", (0.0, 0.1), "positive")],
)  # fmt: skip
def test_contradicting_sizes_are_refused(kind, lambdas, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(kind, 8, 12, lambdas)


def test_one_thread_is_for_the_context_only():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
