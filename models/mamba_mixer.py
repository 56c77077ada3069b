"""Bidirectional Mamba mixer of Vision Mamba. B batch, L sequence, D width, E = expand * D inner width, N state.

Source: Vim (arXiv:2401.09417, section 3.3, algorithm 1); Mamba (arXiv:2312.00752) for the initialisation.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.joined_weights import Join, JoinedModule, join
from models.selective_scan.bidirectional import MixerWeights, bidirectional_mamba

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # range of the initial step size (Mamba, section 3.6)


class BidirectionalMambaMixer(JoinedModule):
    """Scan a sequence in both directions and add the gated results: (B, L, D) -> (B, L, D).

    Parameter names are those of published Vim checkpoints; the backward direction's end in `_b`.
    """

    def __init__(
        self,
        width: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        divide_out: bool = True,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        inner = expand * width
        self.d_state, self.dt_rank = d_state, math.ceil(width / 16)
        self.divide_out, self.scan_backend = divide_out, scan_backend
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        projected = self.dt_rank + 2 * d_state
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, projected, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))  # (E, N)
        self.D = nn.Parameter(torch.ones(inner))
        self.conv1d_b = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj_b = nn.Linear(inner, projected, bias=False)
        self.dt_proj_b = nn.Linear(self.dt_rank, inner)
        self.A_b_log = nn.Parameter(self.A_log.detach().clone())
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            _init_step_size(dt_proj)

    def joins(self) -> dict[str, Join]:
        assert self.conv1d.bias is not None
        assert self.conv1d_b.bias is not None
        return {
            "in_proj": join(self.in_proj.weight),
            "conv_weight": join(self.conv1d.weight, self.conv1d_b.weight, stacked=True, is_factor=False),
            "conv_bias": join(self.conv1d.bias, self.conv1d_b.bias, stacked=True, is_factor=False),
            "x_proj": join(self.x_proj.weight, self.x_proj_b.weight, stacked=True),
            "dt_proj": join(self.dt_proj.weight, self.dt_proj_b.weight, stacked=True),
            "dt_bias": join(self.dt_proj.bias, self.dt_proj_b.bias, stacked=True, is_factor=False),
            "A_log": join(self.A_log, self.A_b_log, stacked=True, is_factor=False),
            "D": join(self.D, self.D_b, stacked=True, is_factor=False),
            "out_proj": join(self.out_proj.weight),
        }

    def forward(self, tokens: Tensor) -> Tensor:
        joined = self.all_joined()
        in_proj, out_proj = joined.pop("in_proj"), joined.pop("out_proj")
        xz = F.linear(tokens, in_proj)  # (B, L, 2 * E)
        weights = MixerWeights(**joined)
        weights = weights._replace(conv_weight=weights.conv_weight.squeeze(2))
        scale = 0.5 if self.divide_out else 1.0
        mixed = bidirectional_mamba(xz, weights, scale=scale, backend=self.scan_backend)  # (B, L, E)
        return F.linear(mixed, out_proj)


def _init_step_size(dt_proj: nn.Linear) -> None:
    """Start with step sizes spread log-uniformly over [DT_MIN, DT_MAX]: the bias is their inverse softplus."""
    nn.init.uniform_(dt_proj.weight, -(dt_proj.in_features**-0.5), dt_proj.in_features**-0.5)
    log_dt = torch.empty(dt_proj.out_features).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    dt = log_dt.exp().clamp(min=DT_FLOOR)
    with torch.no_grad():
        dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
