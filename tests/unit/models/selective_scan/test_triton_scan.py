"""The Triton kernels against the reference: on a GPU, or where there is none on the CPU by Triton's interpreter.

The interpreter is slow, so the sizes are small. float32 against float64: rtol 1e-4, atol 1e-5 of the largest element.
bfloat16: what is stored in it is rounded, the sum of both directions before the gate included: rtol and atol 2^-7.
"""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from models.selective_scan import bidirectional, selective_scan, triton_scan, triton_tiles
from models.selective_scan.custom_operator import flatten
from models.selective_scan.directions import Direction
from tests.helpers.interpreted_kernels import DEVICE, INTERPRETED, on_kernels, run_interpreted, starts_the_interpreter
from tests.helpers.scans import make_mixer, make_scan, mixer_results, results_by_name

SEQUENCES = ("u", "delta", "z", "B", "C")


@starts_the_interpreter
def test_kernels_in_tritons_interpreter():
    run_interpreted(__file__)


@pytest.fixture(autouse=True)
def small_and_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and segments in few steps, which cost a tenth of a second each in the interpreter; convolutions
    by Triton as well, although the tensors are a CPU's."""
    if INTERPRETED:
        monkeypatch.setattr(bidirectional, "can_convolve", lambda *_: False)
        monkeypatch.setattr(triton_tiles, "CHUNK", 2)
        monkeypatch.setattr(bidirectional.triton_conv, "TIMES_BACKWARD", 4)


@pytest.fixture
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with more multiprocessors than any scan fills, which splits it into segments of a few chunks."""
    monkeypatch.setattr(triton_scan, "multiprocessors", lambda device: 10000)
    monkeypatch.setattr(triton_tiles, "LEAST_SEGMENT", 4)


def make_inputs(
    batch: int = 1, dim: int = 5, length: int = 5, state: int = 4, groups: int = 1, without: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inputs = {
        "u": normal(batch, length, dim).transpose(1, 2),
        "delta": normal(batch, length, dim).transpose(1, 2),
        "A": -torch.rand(dim, state, generator=generator) * 8,
        "B": normal(batch, length, groups, state).movedim(1, 3),
        "C": normal(batch, length, groups, state).movedim(1, 3),
        "D": normal(dim),
        "z": normal(batch, length, dim).transpose(1, 2),
        "delta_bias": normal(dim) - 2,
    }
    return {name: x for name, x in inputs.items() if name not in without}


def run(inputs: dict[str, Tensor], backend: str, **options: Any) -> dict[str, Tensor]:
    return results_by_name(inputs, backend=backend, **{"delta_softplus": True} | options)


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    for name, x in want.items():
        bound = max(atol * x.abs().max().item(), 1e-30)  # float32 has nothing smaller to offer
        torch.testing.assert_close(
            got[name].cpu().double(), x, rtol=rtol, atol=bound, msg=lambda text, name=name: f"{name}: {text}"
        )


def check(inputs: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5, **options: Any) -> None:
    want = run({name: x.double() for name, x in inputs.items()}, "reference", **options)
    got = run({name: x.to(DEVICE) for name, x in inputs.items()}, "triton", **options)
    assert all(got[name].dtype == x.dtype for name, x in inputs.items())
    assert_same(got, want, rtol, atol)


@on_kernels
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"length": 1}, {}),
        ({"length": 2}, {"reverse": True}),
        ({"dim": 20, "length": 7, "state": 16}, {}),
        ({"batch": 2, "dim": 4, "state": 3, "groups": 2}, {"reverse": True}),
        ({"length": 3, "state": 1, "without": ("z",)}, {}),
        ({"length": 3, "state": 5, "without": ("D", "delta_bias")}, {}),
        ({"length": 2, "dim": 2, "state": 40, "without": ("z", "D", "delta_bias")}, {"reverse": True}),
    ],
)
def test_output_and_gradients_in_any_shape(shape, options):
    check(make_inputs(**shape), **options)


@on_kernels
@pytest.mark.skipif(INTERPRETED, reason="slow in the interpreter")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [63, 64, 65, 129, 193, 197, 577, 2048])
def test_output_and_gradients_at_the_lengths_of_images(length, reverse):
    check(make_inputs(batch=3, dim=200, length=length, state=16), reverse=reverse)


@on_kernels
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"length": 9}, {}),
        ({"batch": 2, "length": 7, "state": 16}, {"reverse": True}),
        ({"length": 8, "state": 1, "without": ("z",)}, {"delta_softplus": False}),
    ],
)
def test_long_sequences_are_split_along_time(many_segments, shape, options):
    inputs = make_inputs(**shape)
    check(inputs | {"delta": inputs["delta"] * 0.5}, **options)


@on_kernels
def test_both_directions_of_a_mixer_split_along_time(many_segments):
    tokens = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    exact, exact_tokens = make_mixer(6).double(), tokens.double().requires_grad_()
    want = mixer_results(exact, exact_tokens)
    mixer, tokens = make_mixer(6).to(DEVICE), tokens.to(DEVICE).requires_grad_()
    assert_same(mixer_results(mixer, tokens, "triton"), want)


def test_only_scans_of_few_programs_are_split(monkeypatch):
    monkeypatch.setattr(triton_tiles, "CHUNK", 8)
    assert triton_tiles.segment_length(2305, 264, multiprocessors=132) == 2305
    assert triton_tiles.segment_length(2305, 240, multiprocessors=132) == 464  # 5 segments, a multiple of 8
    assert triton_tiles.segment_length(2305, 24, multiprocessors=132) == 128  # no shorter ones
    assert triton_tiles.segment_length(100, 24, multiprocessors=132) == 100
    assert triton_tiles.segment_length(2305, 24, multiprocessors=0) == 2305  # a CPU's interpreter


@on_kernels
def test_without_softplus_steps_may_be_negative():
    inputs = make_inputs()
    check(inputs | {"delta": inputs["delta"] * 0.1, "delta_bias": inputs["delta_bias"] * 0.1}, delta_softplus=False)


@on_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype):
    inputs = make_inputs()
    check(inputs | {name: inputs[name].to(dtype) for name in SEQUENCES}, rtol=2**-7, atol=2**-7)


@on_kernels
def test_blocks_of_any_width_agree(monkeypatch):
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(dim=18, length=3, state=8).items()}
    wide = run(inputs, "triton")
    monkeypatch.setattr(triton_tiles, "MOST_CHANNELS", 16)
    narrow = run(inputs, "triton")
    assert_same(narrow, {name: x.cpu().double() for name, x in wide.items()}, rtol=1e-5, atol=1e-6)


@on_kernels
def test_any_strides_and_results_in_the_memory_order_of_u():
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(batch=2).items()}
    want = selective_scan(**inputs, delta_softplus=True, backend="triton")
    moved = inputs | {name: inputs[name].contiguous() for name in ("u", "delta")}
    moved["z"] = inputs["z"].repeat_interleave(2, dim=1)[:, ::2]
    got = selective_scan(**moved, delta_softplus=True, backend="triton")
    assert torch.equal(got, want)
    assert (want.stride(1), got.stride(2)) == (1, 1)


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [3, 8])  # with 8, rows start at multiples of 16 bytes and nothing is copied
def test_projections_are_read_in_place_between_other_columns(rank, dtype):
    scan = make_scan(2, 5, 3, 8)
    columns = torch.zeros(2, 2, 5, rank + 16, dtype=dtype)
    projections = columns[..., rank:].unflatten(-1, (2, -1)).unsqueeze(2)  # (direction, batch, group, length, 2, state)
    for each, place in zip(scan.directions, projections, strict=True):
        place[..., 0, :], place[..., 1, :] = each.B.detach(), each.C.detach()
    projections = projections.to(DEVICE)

    def outputs(B_and_C: Tensor) -> Tensor:
        directions = tuple(
            Direction(
                *(x.to(DEVICE) for x in each[:3]), *B_and_C[d].unbind(-2), *(x.to(DEVICE) for x in each[5:7]), d > 0
            )
            for d, each in enumerate(scan.directions)
        )
        return triton_scan.scan_triton(scan._replace(directions=directions, z=scan.z.to(DEVICE)))

    assert torch.equal(outputs(projections), outputs(projections.float().contiguous()))


@on_kernels
def test_every_digit_is_the_same_from_run_to_run():
    inputs = {name: x.to(DEVICE) for name, x in make_inputs().items()}
    first, second = run(inputs, "triton"), run(inputs, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


@on_kernels
def test_extreme_delta_gives_no_inf_and_no_nan():
    inputs = make_inputs(length=6)
    for place, value in enumerate((-1e8, -1e4, -90.0, 90.0, 1e4, 1e8)):
        inputs["delta"][..., place] = value
    check(inputs)


@on_kernels
def test_empty_batch_has_gradients():
    results = run({name: x.to(DEVICE) for name, x in make_inputs(batch=0).items()}, "triton")
    assert results["out"].shape == (0, 5, 5)
    assert not results["A"].any()


@on_kernels
def test_operators_have_right_fakes_and_gradients():
    tensors, options = flatten(make_scan(1, 2, 3, 4, directions=1))
    tensors = [x.detach().to(DEVICE).requires_grad_() for x in tensors]
    torch.library.opcheck(
        torch.ops.mamba_tbps.triton_scan.default,
        (True, tensors, *options),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@on_kernels
@pytest.mark.parametrize("length", [2, 7])
def test_a_whole_mixer_and_the_gradients_of_its_parameters(length):
    tokens = torch.randn(2, length, 6, generator=torch.Generator().manual_seed(0))
    exact, exact_tokens = make_mixer(6).double(), tokens.double().requires_grad_()
    want = mixer_results(exact, exact_tokens)
    mixer, tokens = make_mixer(6).to(DEVICE), tokens.to(DEVICE).requires_grad_()
    assert_same(mixer_results(mixer, tokens, "triton"), want)


def test_obstacles(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton_scan.obstacle("cpu", torch.float32, 16) == "it needs tensors on a GPU, not on cpu"
    assert "float64" in str(triton_scan.obstacle("cuda", torch.float64, 16))
    assert "64 states" in str(triton_scan.obstacle("cuda", torch.float32, 65))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert triton_scan.obstacle("cuda", torch.float32, 16) == "triton is not installed"
