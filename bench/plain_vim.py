"""Vision Mamba written out: the definition that `models.vision_mamba` is measured against.

B batch, L length of the sequence, D width, E inner width. As in Vim's own code (arXiv:2401.09417, algorithm 1), each
direction runs by itself, the second one on a flipped copy, with its convolution and projections one by one. The scan is
the project's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.image_features import ImageFeatures, gather_patches
from models.selective_scan import selective_scan


def plain_image(encoder: Any, image: Tensor, kept: Tensor | None = None) -> ImageFeatures:
    """Encode normalised images (B, 3, H, W), or only their patches in kept (B, K).

    Args: encoder, a `models.vision_mamba.VisionMamba`.
    """
    positions, own = encoder.pos_embed, encoder.num_patches // 2
    patches = encoder.patch_embed(image) + torch.cat([positions[:, :own], positions[:, own + 1 :]], dim=1)
    if kept is not None:
        patches = gather_patches(patches, kept)
    middle = patches.shape[1] // 2
    class_token = (encoder.cls_token + positions[:, own : own + 1]).expand(len(image), -1, -1)
    residual = torch.cat([patches[:, :middle], class_token, patches[:, middle:]], dim=1).float()
    for layer in encoder.layers:
        residual = residual + plain_mixer(layer.mixer, layer.norm(residual))
    tokens = encoder.norm_f(residual)
    return ImageFeatures(tokens[:, middle], torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1))


def plain_mixer(mixer: Any, tokens: Tensor) -> Tensor:
    """tokens (B, L, D) -> (B, L, D), with the parameters of mixer, a `models.mamba_mixer.BidirectionalMambaMixer`."""
    xz = mixer.in_proj(tokens).transpose(1, 2)  # (B, 2 * E, L)
    forward = _direction(mixer, xz, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D)
    backward = _direction(mixer, xz.flip(-1), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b)
    both = (forward + backward.flip(-1)).transpose(1, 2)  # (B, L, E)
    return mixer.out_proj(both / 2 if mixer.divide_out else both)


def _direction(
    mixer: Any, xz: Tensor, conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, A_log: Tensor, D: Tensor
) -> Tensor:
    """One direction, scanned forwards: xz (B, 2 * E, L) -> (B, E, L)."""
    x, z = xz.chunk(2, dim=1)
    u = F.silu(conv(F.pad(x, (conv.kernel_size[0] - 1, 0))))
    dt, B, C = x_proj(u.transpose(1, 2)).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    delta = F.linear(dt, dt_proj.weight).transpose(1, 2)
    return selective_scan(
        u,
        delta,
        -torch.exp(A_log.float()),
        B.transpose(1, 2),
        C.transpose(1, 2),
        D.float(),
        z,
        dt_proj.bias.float(),
        delta_softplus=True,
        backend=mixer.scan_backend,
    )
