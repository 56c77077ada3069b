"""How the Triton scan (triton_scan.py) is divided into programs, and the memory layouts that it needs.

A program owns a block of channels of one group, with all their states. How its threads share them: triton_kernels.py.
"""

from torch import Tensor
from torch.nn import functional as F

MAX_STATE = 64
CHUNK = 8  # steps per kept state, even: the backward pass holds the states of half of them in registers
MOST_CHANNELS = 32  # per program: one per thread of a warp
REGISTER_STATES = 16  # per channel; with more states, B and C need registers that only a smaller block leaves free


def power_of_two(state: int) -> int:
    return 1 << (state - 1).bit_length()


def block_of(state: int) -> int:
    """Channels per program: set by the number of states alone, so that sums have a fixed order."""
    return MOST_CHANNELS if state <= REGISTER_STATES else 128 // power_of_two(state)


def grid_of(u: Tensor, groups: int, state: int) -> tuple[int, int]:
    """(programs per batch item, batch items)."""
    batch, _, dim = u.shape
    return groups * -(-dim // groups // block_of(state)), batch


def kept_shape(u: Tensor, groups: int, state: int) -> tuple[int, ...]:
    """Shape of the states before each chunk: (batch, programs, chunks, states, channels)."""
    (programs, batch), chunks = grid_of(u, groups, state), -(-u.shape[1] // CHUNK)
    return batch, programs, chunks, power_of_two(state), block_of(state)


def tile_sizes(state: int, lanes: int) -> dict[str, int]:
    """The kernels' constants. `lanes` threads of a warp share a channel's states, or more where channels are few."""
    block = block_of(state)
    lanes = min(max(lanes, 32 // block), power_of_two(state))
    channels = min(block, 32 // lanes)
    sizes = {"NR": power_of_two(state) // lanes, "CR": block // channels, "NL": lanes, "CL": channels}
    return {"CHUNK": CHUNK, "STATES": state, **sizes}


def tiles(A: Tensor, groups: int) -> Tensor:
    """A (dim, state) cut into a tile per program: (programs, states, channels), padded with zeros."""
    block, states = block_of(A.shape[1]), power_of_two(A.shape[1])
    A = A.unflatten(0, (groups, -1))
    A = F.pad(A, (0, states - A.shape[2], 0, -A.shape[1] % block))
    return A.unflatten(1, (-1, block)).transpose(2, 3).flatten(0, 1).contiguous()


def untiled(A: Tensor, groups: int, dim: int, state: int) -> Tensor:
    """The reverse of `tiles`, with an axis of directions: (directions, programs, ...) -> (directions, dim, state)."""
    A = A.unflatten(1, (groups, -1)).transpose(3, 4).flatten(2, 3)  # (directions, groups, channels, states)
    return A[:, :, : dim // groups, :state].reshape(-1, dim, state)
