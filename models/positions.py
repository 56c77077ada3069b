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
    old_grid = old_grid or _grid_of(num_old, grid)
    if old_grid == grid:
        return rows
    old_class, new_class = (num_old // 2, num_new // 2) if class_row_in_middle else (0, 0)
    class_row = rows[:, old_class : old_class + 1]
    patches = torch.cat([rows[:, :old_class], rows[:, old_class + 1 :]], dim=1)
    resized = resize_patch_positions(patches, grid, old_grid)
    return torch.cat([resized[:, :new_class], class_row, resized[:, new_class:]], dim=1)


def resize_patch_positions(rows: Tensor, grid: Grid, old_grid: Grid | None = None) -> Tensor:
    """Do the same for an embedding without a class token's row: (1, M, D) -> (1, N, D)."""
    old_grid = old_grid or _grid_of(rows.shape[1], grid)
    if old_grid == grid:
        return rows
    image = rows.float().transpose(1, 2).unflatten(2, old_grid)  # (1, D, rows, columns)
    resized = F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return resized.to(rows.dtype)


def _grid_of(num_patches: int, likely: Grid) -> Grid:
    """Return the likely grid if it has that many patches, else the square one."""
    return likely if num_patches == likely[0] * likely[1] else square_grid(num_patches)


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
