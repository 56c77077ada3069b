"""How the Triton scan (triton_scan.py) is divided into programs, and the shapes that follow.

A program owns a block of channels of one group, with all their states. How its threads share them: triton_parts.py.
"""

import torch
from torch import Tensor

MAX_STATE = 64
CHUNK = 8  # steps per kept state: 8, 4 or 2. The backward pass holds the states of half of them in registers
MOST_CHANNELS = 32  # per program: one per thread of a warp
REGISTER_STATES = 16  # per channel; with more states, B and C need registers that only a smaller block leaves free
FEW_CHANNELS = 4  # per program with more states
LANES_FORWARD, LANES_BACKWARD = 1, 2  # threads of a warp that share a channel's states
REGISTERS_FORWARD = 80  # per thread at most: room for 24 warps per multiprocessor

# A scan with fewer programs than the first number per multiprocessor is split along time into as many segments as give
# the second one, of at least so many steps: it costs the arithmetic of another scan without output.
FEW_PROGRAMS, WANTED_PROGRAMS, LEAST_SEGMENT = 2, 8, 128


def power_of_two(state: int) -> int:
    return 1 << (state - 1).bit_length()


def block_of(state: int) -> int:
    """Channels per program: set by the number of states alone, so that sums have a fixed order."""
    return MOST_CHANNELS if state <= REGISTER_STATES else FEW_CHANNELS


def chunk_of(state: int) -> int:
    """Steps per kept state: at most as many as a program has channels, which share the sums of a half (exchange)."""
    return min(CHUNK, block_of(state))


def grid_of(u: Tensor, groups: int, state: int) -> tuple[int, int]:
    """(programs per batch item, batch items)."""
    batch, _, dim = u.shape
    return groups * -(-dim // groups // block_of(state)), batch


def tile_shape(state: int) -> tuple[int, int]:
    """(states, channels) of a program."""
    return power_of_two(state), block_of(state)


def kept_shape(u: Tensor, groups: int, state: int) -> tuple[int, ...]:
    """Shape of the states before each chunk: (batch, programs, chunks, states, channels)."""
    (programs, batch), chunks = grid_of(u, groups, state), -(-u.shape[1] // chunk_of(state))
    return batch, programs, chunks, *tile_shape(state)


def tile_sizes(state: int, lanes: int) -> dict[str, int]:
    """The kernels' constants. `lanes` threads of a warp share a channel's states, or more where channels are few."""
    block = block_of(state)
    lanes = min(max(lanes, 32 // block), power_of_two(state))
    channels = min(block, 32 // lanes)
    sizes = {"NR": power_of_two(state) // lanes, "CR": block // channels, "NL": lanes, "CL": channels}
    return {"HALF": chunk_of(state) // 2, "STATES": state, **sizes}


def most_registers(u: Tensor, state: int) -> dict[str, int]:
    """The option of a forward launch that bounds its registers, where the kernel fits in them."""
    return {"maxnreg": REGISTERS_FORWARD} if u.dtype == torch.bfloat16 and state == REGISTER_STATES else {}


def segment_length(length: int, programs: int, multiprocessors: int) -> int:
    """Steps per segment, a multiple of a chunk; `length` where the scan is not split."""
    if programs >= FEW_PROGRAMS * multiprocessors:
        return length
    segments = -(-WANTED_PROGRAMS * multiprocessors // programs)
    steps = max(-(-length // segments), LEAST_SEGMENT)
    return min(-(-steps // CHUNK) * CHUNK, length)
