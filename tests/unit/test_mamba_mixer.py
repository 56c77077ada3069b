"""Causal depthwise convolution with SiLU: the compiled kernel against torch's own convolution."""

import pytest
import torch
from torch.nn import functional as F

from models import mamba_mixer
from models.mamba_mixer import BidirectionalMambaMixer, causal_conv_silu
from models.selective_scan.cpu_conv import can_convolve, causal_conv_silu_cpu

CHUNK = 16  # of cpu_tiles.h; lengths around it and below the number of taps are the edges


@pytest.fixture(params=["kernel", "torch"])
def conv(request, monkeypatch):
    """causal_conv_silu by the compiled kernel, and as it works where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(mamba_mixer, "can_convolve", lambda x, weight: False)
    else:
        assert can_convolve(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)), "no C compiler"
    return causal_conv_silu


def definition(x, weight, bias, reverse):
    x = x.flip(1) if reverse else x
    padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    out = F.silu(F.conv1d(padded, weight, bias, groups=len(weight))).transpose(1, 2)
    return out.flip(1) if reverse else out


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taps", [1, 4, 5])
@pytest.mark.parametrize(("length", "channels"), [(1, 5), (2, 16), (CHUNK, 3), (CHUNK + 1, 40), (3 * CHUNK - 1, 24)])
def test_outputs_and_gradients(conv, length, channels, taps, reverse):
    """float32, atol 1e-5 for outputs and 1e-4 for gradients; x is a strided half of a wider tensor, as in the mixer."""
    torch.manual_seed(0)
    x = torch.randn(3, length, 2 * channels)[..., channels:].requires_grad_()
    weight = torch.randn(channels, 1, taps, requires_grad=True)
    bias = torch.randn(channels, requires_grad=True)
    gradient = torch.randn(3, length, channels)
    out, expected = conv(x, weight, bias, reverse=reverse), definition(x, weight, bias, reverse)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(each, (x, weight, bias), gradient) for each in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_bfloat16_inputs_give_bfloat16_outputs(conv):
    """The arithmetic of the kernel stays in float32: half a unit in the last place of bfloat16 (4e-3 relative)."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 20, 16).bfloat16(), torch.randn(16, 1, 4), torch.randn(16)
    out = causal_conv_silu_cpu(x, weight, bias, False)
    assert out.dtype == conv(x, weight, bias, reverse=False).dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), definition(x.float(), weight, bias, False), atol=1e-3, rtol=4e-3)


def test_the_number_of_threads_changes_no_digit():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 40, 24), torch.randn(24, 1, 4, requires_grad=True), torch.randn(24)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(torch.autograd.grad(causal_conv_silu_cpu(x, weight, bias, True).square().sum(), weight)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_the_operator_is_registered_as_torch_compile_needs_it():
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(8, 1, 4), torch.randn(8)
    arguments = tuple(each.requires_grad_() for each in (x, weight, bias))
    torch.library.opcheck(causal_conv_silu_cpu, (*arguments, True))


def test_a_mixer_halves_its_two_directions():
    torch.manual_seed(0)
    mixer = BidirectionalMambaMixer(16, divide_out=True)
    tokens = torch.randn(2, 7, 16)
    halved = mixer(tokens)
    mixer.divide_out = False
    torch.testing.assert_close(halved * 2, mixer(tokens))
