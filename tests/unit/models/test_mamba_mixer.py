"""The mixer's fused parts on a CPU: convolution with SiLU, and both scans with the gate behind their sum."""

import pytest
import torch
from torch.nn import functional as F

from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import bidirectional
from models.selective_scan.bidirectional import conv_silu
from models.selective_scan.cpu_conv import can_convolve, conv_silu_cpu
from models.selective_scan.directions import Scan
from models.selective_scan.interface import scan_directions
from tests.helpers.scans import make_scan, needs_kernel

CHUNK = 16  # of cpu_tiles.h; lengths around it and below the number of taps are the edges


@pytest.fixture(params=["kernel", "torch"])
def conv(request, monkeypatch):
    """conv_silu by the compiled kernel, and as it works where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(bidirectional, "can_convolve", lambda x, weight: False)
    else:
        assert can_convolve(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)), "no C compiler"

    return conv_silu


def definition(x, weight, bias):
    def one(x, weight, bias):
        padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
        return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight))).transpose(1, 2)

    return torch.stack([one(x, weight[0], bias[0]), one(x.flip(1), weight[1], bias[1]).flip(1)])


def conv_inputs(batch, length, channels, taps=4):
    """x is a strided half of a wider tensor."""
    torch.manual_seed(0)
    x = torch.randn(batch, length, 2 * channels)[..., channels:]
    return [each.requires_grad_() for each in (x, torch.randn(2, channels, taps), torch.randn(2, channels))]


@pytest.mark.parametrize("taps", [1, 4, 5])
@pytest.mark.parametrize(("length", "channels"), [(1, 5), (2, 16), (CHUNK, 3), (CHUNK + 1, 40), (3 * CHUNK - 1, 24)])
def test_convolution_outputs_and_gradients(conv, length, channels, taps):
    """float32, atol 1e-5 for outputs and 1e-4 for gradients."""
    inputs, gradients = conv_inputs(3, length, channels, taps), torch.randn(2, 3, length, channels)
    out, expected = conv(*inputs), definition(*inputs)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(each, inputs, gradients) for each in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_convolution_of_bfloat16_gives_bfloat16(conv):
    """The arithmetic of the kernel stays in float32: half a unit in the last place of bfloat16 (4e-3 relative)."""
    x, *parameters = (each.detach() for each in conv_inputs(2, 20, 16))
    x = x.bfloat16()
    out, expected = conv_silu_cpu(x, *parameters), definition(x.float(), *parameters)
    assert {each.dtype for each in (out, conv(x, *parameters))} == {torch.bfloat16}
    torch.testing.assert_close(out.float(), expected, atol=1e-3, rtol=4e-3)


def test_the_number_of_threads_changes_no_digit_of_the_convolution():
    inputs = conv_inputs(6, 40, 24)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(torch.autograd.grad(conv_silu_cpu(*inputs).square().sum(), inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_convolution_is_registered_as_torch_compile_needs_it():
    torch.library.opcheck(torch.ops.mamba_tbps.conv_silu.default, tuple(conv_inputs(2, 5, 8)))


# ---- both scans ----


def scan_results(scan: Scan, backend: str):
    out = scan_directions(scan, backend)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, scan.tensors, weights)]


def in_float64(scan: Scan) -> Scan:
    def exact(x):
        return x.detach().double().requires_grad_()

    directions = (each._make([*map(exact, each[:-1]), each.reverse]) for each in scan.directions)
    return scan._replace(directions=tuple(directions), z=exact(scan.z))


@needs_kernel
@pytest.mark.parametrize(("batch", "length", "dim"), [(1, 1, 3), (2, CHUNK, 8), (3, CHUNK + 3, 12), (2, 65, 40)])
def test_both_directions_and_all_gradients(batch, length, dim):
    """float32, within 1e-5 of the largest element of each."""
    scan = make_scan(batch, length, dim, scale=0.5)
    for ours, reference in zip(scan_results(scan, "cpu"), scan_results(scan, "reference"), strict=True):
        assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


@needs_kernel
def test_both_directions_without_gradients_give_the_same():
    scan = make_scan()
    with torch.no_grad():
        out = scan_directions(scan, "cpu")
    assert torch.equal(out, scan_results(scan, "cpu")[0])


@needs_kernel
def test_both_directions_of_bfloat16():
    """Computed in float32; rounded are the results and the sum before the gate: 2^-7 of the largest element."""
    scan = make_scan(scale=0.5, dtype=torch.bfloat16)
    exact = scan_results(in_float64(scan), "reference")
    for ours, reference in zip(scan_results(scan, "cpu"), exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - reference).abs().max() <= 2**-7 * reference.abs().max()


@needs_kernel
def test_an_empty_batch_has_zero_gradients():
    results = scan_results(make_scan(batch=0), "cpu")
    assert results[0].shape == (0, CHUNK + 3, 12)
    assert not any(x.any() for x in results)


@needs_kernel
def test_both_directions_are_registered_as_torch_compile_needs_it():
    scan = make_scan(scale=0.5)

    def gated(z):
        return scan_directions(scan._replace(z=z), "cpu")

    compiled = torch.compile(gated, fullgraph=True, backend="aot_eager")(scan.z)
    assert torch.equal(compiled, gated(scan.z))
    assert torch.equal(*(torch.autograd.grad(each.sum(), scan.z)[0] for each in (compiled, gated(scan.z))))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_mixer_halves_its_two_directions(backend):
    torch.manual_seed(0)
    mixer = BidirectionalMambaMixer(16, divide_out=True, scan_backend=backend)
    tokens = torch.randn(2, 7, 16)
    halved = mixer(tokens)
    mixer.divide_out = False
    torch.testing.assert_close(halved * 2, mixer(tokens))
