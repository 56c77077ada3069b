"""Long sequences in segments: where a scan has too few programs to fill a GPU, it is split along time.

`segment_scan_kernel` scans each segment by itself from a state of zero, without output, and `segment_states_kernel`
takes the results to the states before each segment, by the decay of a whole segment, which follows from the sum of its
step sizes. The forward kernel then starts every segment from the right state. The gradient of the state obeys the same
kind of recurrence the other way, so OF_GRADIENT does the same for the backward pass.
"""

# mypy: ignore-errors
# (names in a kernel are Triton values)

import triton
import triton.language as tl

from models.selective_scan.triton_parts import (
    LOG2_E,
    block_of_channels,
    expand,
    gated,
    load_A,
    load_or_zero,
    load_states,
    load_steps,
    place_in_tile,
    step_size,
)


@triton.jit
def segment_steps(
    x, total, a, u, delta, B, z, channel, exists, shift, scale,
    SIGN: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr,
    B_TIME: tl.constexpr, Z_TIME: tl.constexpr, HAS_Z: tl.constexpr, SOFTPLUS: tl.constexpr, OF_GRADIENT: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr,
):  # fmt: skip
    raw_us = load_steps(u + channel, SIGN * U_TIME, exists, STEPS)
    raw_deltas = load_steps(delta + channel, SIGN * DELTA_TIME, exists, STEPS)
    zs = load_steps(z + channel, SIGN * Z_TIME, exists, STEPS) if OF_GRADIENT and HAS_Z else raw_us
    us, deltas = (), ()
    for i in tl.static_range(STEPS):
        delta_t, _ = step_size(raw_deltas[i], shift, SOFTPLUS, False)
        deltas += (delta_t,)
        us += (gated(raw_us[i], zs[i], scale, HAS_Z)[0] if OF_GRADIENT else delta_t * raw_us[i].to(tl.float32),)
    for i in tl.static_range(STEPS):
        decay = tl.exp2(expand(deltas[i], CR) * a)
        added = expand(us[i], CR) * load_states(B + i * SIGN * B_TIME, STATES, NR, NL)
        x = decay * (x + added) if OF_GRADIENT else decay * x + added
        total += deltas[i]
    return x, total


@triton.jit
def segment_direction(
    d, u, delta, A, B, bias, z, ends, decays,
    length, segment, segments, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
    SIGN: tl.constexpr, STATES: tl.constexpr, U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr,
    Z_TIME: tl.constexpr, LOG_A: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    OF_GRADIENT: tl.constexpr, HALF: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = NR * CR * NL * CL
    group, first, channel, exists = block_of_channels(group_dim, CR, CL)
    n, c = place_in_tile(NR, CR, NL, CL)
    item = tl.program_id(1).to(tl.int64)
    begin = segment * segment_length
    steps = tl.minimum(segment_length, length - begin)
    t = begin + steps - 1 if SIGN < 0 else begin
    u += item * u_batch + t * U_TIME + first
    delta += item * delta_batch + t * DELTA_TIME + first
    B += item * b_batch + group * b_group + t * B_TIME
    z += item * z_batch + t * Z_TIME + first
    a = load_A(A, first, group_dim - (first - group * group_dim), zero, LOG_A, STATES, NR, CR, NL, CL)
    a = tl.reshape(a * LOG2_E, (NR, CR, NL, CL))
    shift = load_or_zero(bias + first + channel, exists, HAS_BIAS)
    x = tl.zeros((NR, CR, NL, CL), tl.float32)
    total = tl.zeros((1, 1, CR, CL), tl.float32)
    for _half in range(0, steps // HALF):
        x, total = segment_steps(
            x, total, a, u, delta, B, z, channel, exists, shift, scale,
            SIGN, HALF, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, HAS_Z, SOFTPLUS, OF_GRADIENT, NR, CR, NL,
        )  # fmt: skip
        u += HALF * SIGN * U_TIME
        delta += HALF * SIGN * DELTA_TIME
        B += HALF * SIGN * B_TIME
        z += HALF * SIGN * Z_TIME
    for _step in range(steps // HALF * HALF, steps):
        x, total = segment_steps(
            x, total, a, u, delta, B, z, channel, exists, shift, scale,
            SIGN, 1, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, HAS_Z, SOFTPLUS, OF_GRADIENT, NR, CR, NL,
        )  # fmt: skip
        u += SIGN * U_TIME
        delta += SIGN * DELTA_TIME
        B += SIGN * B_TIME
        z += SIGN * Z_TIME
    tile = (d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)
    place = (tile * segments + segment) * TILE + zero + n * (CR * CL) + c
    tl.store(ends + place, tl.reshape(x, (NR * CR, NL * CL)))
    tl.store(decays + place, tl.reshape(tl.exp2(expand(total, CR) * a), (NR * CR, NL * CL)))


@triton.jit(do_not_specialize=["zero"])
def segment_scan_kernel(
    u, delta, A, B, bias, z, ends, decays,
    length, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
    U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr, Z_TIME: tl.constexpr,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, OF_GRADIENT: tl.constexpr, HALF: tl.constexpr, STATES: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """The last state of each segment, as a tile, and the decay of a state through all of it.

    OF_GRADIENT: u, B and z are the output's gradient, C and z. The scan then runs against the direction, and the result
    is the gradient of the state before the segment.
    """
    SIGN: tl.constexpr = -1 if REVERSE != OF_GRADIENT else 1
    segments = tl.num_programs(2) // DIRECTIONS
    segment = tl.program_id(2) % segments
    if DIRECTIONS == 1 or tl.program_id(2) < segments:
        segment_direction(
            0, u[0], delta[0], A[0], B[0], bias[0], z, ends, decays, length, segment, segments, segment_length,
            group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
            SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME,
            LOG_A, HAS_Z, HAS_BIAS, SOFTPLUS, OF_GRADIENT, HALF, NR, CR, NL, CL,
        )  # fmt: skip
    else:
        segment_direction(
            1, u[1], delta[1], A[1], B[1], bias[1], z, ends, decays, length, segment, segments, segment_length,
            group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
            -SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME,
            LOG_A, HAS_Z, HAS_BIAS, SOFTPLUS, OF_GRADIENT, HALF, NR, CR, NL, CL,
        )  # fmt: skip


@triton.jit
def segment_states_kernel(ends, decays, segments, of_direction, ORDER_FIRST: tl.constexpr, TILE: tl.constexpr):
    """Replace the last state of each segment by the state before it. A program has a tile; those of the first direction
    come first, of_direction of them. ORDER_FIRST: 1 if that direction goes from the first segment to the last."""
    tile = tl.program_id(0).to(tl.int64)
    upwards = (tile < of_direction) == (ORDER_FIRST == 1)
    place = tile * segments * TILE + tl.arange(0, TILE)
    x = tl.zeros((TILE,), tl.float32)
    for k in range(0, segments):
        at = place + tl.where(upwards, k, segments - 1 - k) * TILE
        decay, end = tl.load(decays + at), tl.load(ends + at)
        tl.store(ends + at, x)
        x = decay * x + end
