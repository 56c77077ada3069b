"""The recurrence of the selective scan as ONNX's Scan operator. Needs onnxscript, so only an export imports it.

PyTorch's exporter sees the loop as one custom operator and writes it as the ONNX function that TRANSLATIONS names.
Both take delta, delta_u (length, batch, dim); b, c (length, batch, state); a (dim, state); start (batch,
dim, state). The result is y (length, batch, dim), without the terms that need no loop; the formulas are in
models/selective_scan/reference.py.
"""

import torch
from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from torch import Tensor

from models.selective_scan.directions import Scan
from models.selective_scan.reference import scan_by_recurrence


@script(default_opset=op)
def scan_forward(
    delta: FLOAT[...], delta_u: FLOAT[...], b: FLOAT[...], c: FLOAT[...], a: FLOAT[...], start: FLOAT[...]
) -> FLOAT[...]:
    last = op.Constant(value_ints=[-1])
    one = op.Constant(value_ints=[1])

    @graph()
    def step(state, delta_t, delta_u_t, b_t, c_t):
        decay = op.Exp(op.Mul(op.Unsqueeze(delta_t, last), a))
        now = op.Add(op.Mul(decay, state), op.Mul(op.Unsqueeze(delta_u_t, last), op.Unsqueeze(b_t, one)))
        return now, op.ReduceSum(op.Mul(now, op.Unsqueeze(c_t, one)), last, keepdims=0)

    _, y = op.Scan(start, delta, delta_u, b, c, body=step, num_scan_inputs=4)
    return y


@torch.library.custom_op("mamba_tbps::scan_forward", mutates_args=())
def _loop(delta: Tensor, delta_u: Tensor, b: Tensor, c: Tensor, a: Tensor, start: Tensor) -> Tensor:
    state, outputs = start, []
    for delta_t, delta_u_t, b_t, c_t in zip(delta, delta_u, b, c, strict=True):
        state = torch.exp(delta_t[..., None] * a) * state + delta_u_t[..., None] * b_t[:, None]
        outputs.append((state * c_t[:, None]).sum(-1))
    return torch.stack(outputs)


@_loop.register_fake
def _shape(delta: Tensor, delta_u: Tensor, b: Tensor, c: Tensor, a: Tensor, start: Tensor) -> Tensor:
    return torch.empty_like(delta)


TRANSLATIONS = {torch.ops.mamba_tbps.scan_forward.default: scan_forward}


def scan_onnx(scan: Scan) -> Tensor:
    """Compute the scan, with one group in B and C."""
    return scan_by_recurrence(scan, _recurrence)


def _recurrence(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> Tensor:
    """A `Recurrence` of models/selective_scan/reference.py."""
    steps = [x.permute(2, 0, 1) for x in (delta, delta * u)] + [x[:, 0].transpose(0, 1) for x in (B, C)]
    if reverse:
        steps = [x.flip(0) for x in steps]
    start = u.new_zeros(u.shape[0], *A.shape)
    y = torch.ops.mamba_tbps.scan_forward(*(x.contiguous() for x in steps), A, start)
    return (y.flip(0) if reverse else y).permute(1, 2, 0)
