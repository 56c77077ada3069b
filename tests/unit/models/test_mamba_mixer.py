"""The mixer's fused parts on a CPU: convolution with SiLU, both scans with the gate behind their sum, and the node that
computes both and all between them, with its gradients by hand."""

import pytest
import torch
from torch.nn import functional as F

from models.joined_weights import joined_once
from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import bidirectional
from models.selective_scan.bidirectional import MixerWeights, bidirectional_mamba, conv_silu
from models.selective_scan.cpu_conv import can_convolve, conv_silu_cpu
from models.selective_scan.directions import Scan
from models.selective_scan.interface import scan_directions
from tests.helpers.dispatch import dispatched
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
    inputs = conv_inputs(2, 5, 8)
    torch.library.opcheck(torch.ops.mamba_tbps.conv_silu.default, tuple(inputs))
    grad_x = torch.zeros(2, 5, 16)[..., :8]
    arguments = (torch.randn(2, 2, 5, 8), *(each.detach() for each in inputs), grad_x)
    torch.library.opcheck(torch.ops.mamba_tbps.conv_silu_backward.default, arguments, test_utils=("test_schema",))


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


# ---- the whole between in_proj and out_proj ----


def core_inputs(dtype, *, batch=3, length=CHUNK + 3, inner=24, state=4, rank=2):
    torch.manual_seed(0)
    weights = MixerWeights(
        conv_weight=torch.randn(2, inner, 4),
        conv_bias=torch.randn(2, inner),
        x_proj=torch.randn(2, rank + 2 * state, inner) / inner**0.5,
        dt_proj=torch.randn(2, inner, rank),
        dt_bias=torch.randn(2, inner) - 2,
        A_log=torch.randn(2, inner, state),
        D=torch.randn(2, inner),
    )
    inputs = [torch.randn(batch, length, 2 * inner), *weights]
    factors = (0, 1 + MixerWeights._fields.index("x_proj"), 1 + MixerWeights._fields.index("dt_proj"))
    return [each.to(dtype if place in factors else torch.float32) for place, each in enumerate(inputs)]


def core_results(inputs, **options):
    xz, *weights = inputs = [each.detach().requires_grad_() for each in inputs]
    out = bidirectional_mamba(xz, MixerWeights(*weights), scale=0.5, **options)
    slopes = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, slopes)]


@needs_kernel
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_gradients_by_hand_are_those_of_autograd(dtype, tolerance):
    """Against float64, within the tolerance times the largest element of each."""
    inputs = core_inputs(dtype)
    exact = core_results([each.double() for each in inputs], backend="reference")
    for number, (ours, reference) in enumerate(zip(core_results(inputs, backend="cpu"), exact, strict=True)):
        assert ours.dtype == (dtype if number == 0 else inputs[number - 1].dtype)
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


@needs_kernel
def test_an_empty_batch_has_gradients():
    results = core_results(core_inputs(torch.float32, batch=0), backend="cpu")
    assert results[0].shape == (0, CHUNK + 3, 24)
    assert not any(each.any() for each in results)


@needs_kernel
def test_without_gradients_a_mixer_gives_the_same():
    mixer, tokens = BidirectionalMambaMixer(16, scan_backend="cpu"), torch.randn(2, 7, 16)
    with torch.no_grad():
        out = mixer(tokens)
    assert torch.equal(out, mixer(tokens))


@needs_kernel
@pytest.mark.parametrize("device_type", ["cpu", "cuda"], ids=["bf16", "fp32"])
def test_operators_of_a_mixer_with_joined_weights(device_type):
    """Four products, convolution and scan; backward a second product for each of the four."""
    mixer, tokens = BidirectionalMambaMixer(16, scan_backend="cpu"), torch.randn(2, 7, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=device_type == "cpu"), joined_once(mixer, device_type):
        assert mixer.has_copies
        tokens = tokens.to(torch.get_autocast_dtype("cpu") if device_type == "cpu" else torch.float32)
        with dispatched() as forward:
            out = mixer(tokens)
        slopes = torch.ones_like(out)
        with dispatched() as backward:
            out.backward(slopes)
    assert forward == {"mm": 2, "conv_silu": 1, "bmm": 2, "selective_scan": 1}
    products = {"mm": 4, "bmm": 3, "baddbmm_": 1}
    del backward["_foreach_copy_"]  # of the joins
    of_tokens = {"_to_copy": 1} if device_type == "cpu" else {}
    kernels = {"conv_silu_backward": 1, "selective_scan_backward": 1}
    assert backward == products | kernels | of_tokens


@needs_kernel
def test_a_mixer_compiles_without_a_graph_break():
    mixer, tokens = BidirectionalMambaMixer(16, scan_backend="cpu"), torch.randn(2, 7, 16)
    results = []
    for forward in (mixer, torch.compile(mixer, fullgraph=True, backend="aot_eager")):
        mixer.zero_grad()
        out = forward(tokens)
        out.sum().backward()
        results.append([out, *(each.grad for each in mixer.parameters())])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
