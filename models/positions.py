"""Position embeddings at another resolution. M old and N new patches, D width."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_positions(rows: Tensor, grid: tuple[int, int], *, class_row_in_middle: bool) -> Tensor:
    """Interpolate a position embedding bicubically to a new grid of patches; the class token's row is only moved.

    Args:
        rows: (1, M+1, D), from a square grid or from one of as many patches as the new one.
        grid: rows and columns of the new grid.
        class_row_in_middle: the class token's row is row M // 2 (Vim) instead of row 0 (ViT), before and after.
    Returns: (1, N+1, D) with N = grid rows * grid columns.
    Raises: ValueError if the old grid is neither square nor of N patches.
    """
    num_old, num_new = rows.shape[1] - 1, grid[0] * grid[1]
    if num_old == num_new:
        return rows
    side = math.isqrt(num_old)
    if side * side != num_old:
        raise ValueError(f"a position embedding of {num_old} patches is not of a square image and cannot be resized")
    old_class, new_class = (num_old // 2, num_new // 2) if class_row_in_middle else (0, 0)
    class_row = rows[:, old_class : old_class + 1]
    patches = torch.cat([rows[:, :old_class], rows[:, old_class + 1 :]], dim=1)
    image = patches.float().transpose(1, 2).unflatten(2, (side, side))  # (1, D, side, side)
    resized = F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    resized = resized.to(rows.dtype)
    return torch.cat([resized[:, :new_class], class_row, resized[:, new_class:]], dim=1)
