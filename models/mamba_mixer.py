"""Bidirectional Mamba mixer of Vision Mamba. B batch, L sequence, D width, E = expand * D inner width, N state.

Source: Vim (arXiv:2401.09417, section 3.3, algorithm 1); Mamba (arXiv:2312.00752) for the initialisation.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.selective_scan.bidirectional import DirectionWeights, bidirectional_mamba

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # range of the initial step size (Mamba, section 3.6)


class BidirectionalMambaMixer(nn.Module):
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

    def forward(self, tokens: Tensor) -> Tensor:
        # two products instead of one that is split: this saves joining the gradients
        x, z = (F.linear(tokens, weight) for weight in self.in_proj.weight.chunk(2))  # (B, L, E) each
        scale = 0.5 if self.divide_out else 1.0
        return self.out_proj(
            bidirectional_mamba(x, z, *self.__direction_weights(), scale=scale, backend=self.scan_backend)
        )

    def __direction_weights(self) -> tuple[DirectionWeights, DirectionWeights]:
        """The parameters of the forward and the backward direction."""
        first = (self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        second = (self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        return _weights_of(*first), _weights_of(*second)


def _weights_of(conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, a_log: Tensor, d: Tensor) -> DirectionWeights:
    assert conv.bias is not None
    return DirectionWeights(conv.weight, conv.bias, x_proj.weight, dt_proj.weight, dt_proj.bias, a_log, d)


def _init_step_size(dt_proj: nn.Linear) -> None:
    """Start with step sizes spread log-uniformly over [DT_MIN, DT_MAX]: the bias is their inverse softplus."""
    nn.init.uniform_(dt_proj.weight, -(dt_proj.in_features**-0.5), dt_proj.in_features**-0.5)
    log_dt = torch.empty(dt_proj.out_features).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    dt = log_dt.exp().clamp(min=DT_FLOOR)
    with torch.no_grad():
        dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
