"""Position embeddings at another resolution. M old and N new patches, D width."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]  # rows and columns of patches


def resize_positions(rows: Tensor, grid: Grid, *, class_row_in_middle: bool, old_grid: Grid | None = None) -> Tensor:
    """Interpolate a position embedding bicubically to a new grid of patches. The class token's row only moves.

    Args:
        rows: (1, M+1, D).
        grid: the new grid.
        class_row_in_middle: the class token's row is M // 2 (Vim) and not 0 (ViT), before and after.
        old_grid: the grid of the M patches; None: the new grid if M = N, else a square.
    Returns: (1, N+1, D) with N = grid rows * grid columns.
    Raises: ValueError if the old grid is not given and M is neither N nor a square number.
    """
    num_old, num_new = rows.shape[1] - 1, grid[0] * grid[1]
    if old_grid is None:
        old_grid = grid if num_old == num_new else square_grid(num_old)
    if old_grid == grid:
        return rows
    old_class, new_class = (num_old // 2, num_new // 2) if class_row_in_middle else (0, 0)
    class_row = rows[:, old_class : old_class + 1]
    patches = torch.cat([rows[:, :old_class], rows[:, old_class + 1 :]], dim=1)
    image = patches.float().transpose(1, 2).unflatten(2, old_grid)  # (1, D, rows, columns)
    resized = F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    resized = resized.to(rows.dtype)
    return torch.cat([resized[:, :new_class], class_row, resized[:, new_class:]], dim=1)


def square_grid(num_patches: int) -> Grid:
    """Return the square grid of that many patches. Raises: ValueError if there is none."""
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(
            f"a position embedding of {num_patches} patches is not of a square image and cannot be resized"
        )
    return side, side


def class_row_to_middle(rows: Tensor) -> Tensor:
    """Move the class token's row from the front (ViT) to M // 2 (Vim): (1, M+1, D) -> (1, M+1, D)."""
    middle = (rows.shape[1] - 1) // 2
    return torch.cat([rows[:, 1 : middle + 1], rows[:, :1], rows[:, middle + 1 :]], dim=1)
