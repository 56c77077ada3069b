"""A Vim mixer as one computes it with stock mamba-ssm and causal-conv1d: each direction by itself, with flips."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.mamba_mixer import BidirectionalMambaMixer


def stock_mixer(mixer: BidirectionalMambaMixer, tokens: Tensor) -> Tensor:
    """tokens (B, L, D) -> (B, L, D), with the mixer's own parameters."""
    xz = mixer.in_proj(tokens).transpose(1, 2).contiguous()  # (B, 2 * E, L)
    forward = _direction(mixer, xz, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D)
    backward = _direction(mixer, xz.flip(-1), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b)
    both = (forward + backward.flip(-1)).transpose(1, 2)  # (B, L, E)
    return mixer.out_proj(both / 2 if mixer.divide_out else both)


def _direction(
    mixer: BidirectionalMambaMixer,
    xz: Tensor,
    conv: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor,
) -> Tensor:
    """xz (B, 2 * E, L) -> (B, E, L), scanned forwards."""
    causal_conv1d: Any = importlib.import_module("causal_conv1d")
    interface: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    x, z = xz.chunk(2, dim=1)
    weight, bias = conv.weight[:, 0].to(x.dtype), None if conv.bias is None else conv.bias.to(x.dtype)
    u = causal_conv1d.causal_conv1d_fn(x, weight, bias, activation="silu")
    dt, B, C = x_proj(u.transpose(1, 2)).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    delta = F.linear(dt, dt_proj.weight)
    return interface.selective_scan_fn(
        u,
        delta.transpose(1, 2).contiguous(),
        -torch.exp(A_log.float()),
        B.transpose(1, 2).contiguous(),
        C.transpose(1, 2).contiguous(),
        D.float(),
        z,
        dt_proj.bias.float(),
        True,
    )
