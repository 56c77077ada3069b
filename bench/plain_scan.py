"""The selective scan as the Mamba authors' reference code lays it out: the loop that published speed-ups refer to.

The decay and the input of every step are computed beforehand, as tensors with one number per channel, step and state;
the loop then takes them one step at a time. `models/selective_scan/reference.py` computes both inside its loop, where
they stay in the cache, and is two to four times faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """(batch, dim, length) as `selective_scan(..., delta_softplus=True)`; B and C (batch, state, length).

    Source: Mamba (arXiv:2312.00752), section 3.3. Steps are unbound and not indexed: an index makes the backward pass
    fill a tensor of full size for every step, which flatters whatever it is compared with.
    """
    delta = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = u.new_zeros(len(u), *A.shape)
    outputs = []
    for decay_t, input_t, C_t in zip(decay.unbind(2), inputs.unbind(2), C.unbind(2), strict=True):
        state = decay_t * state + input_t
        outputs.append(torch.einsum("bdn,bn->bd", state, C_t))
    return (torch.stack(outputs, dim=2) + D[:, None] * u) * F.silu(z)
