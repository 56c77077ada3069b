"""The forward kernel of the selective scan: float32, the state in registers, one direction after the other.

A program (triton_parts.py) walks through time, HALF steps at a time. It loads what they need, computes them, and stores
their results at the end, since the compiler moves no load across a store. Two halves are a chunk. The state before a
chunk is kept for the backward pass. Strides in time are constants: within a half, an address is a pointer plus a
constant. Direction 0 runs backwards if REVERSE is set, direction 1 the other way. reference.py has the formulas.

Sequences are channel-last; B and C are (batch, groups, length, states) with equal strides. Both have stride 1 along the
last axis. Arguments with one tensor per direction are tuples. A program has one of the segments of a long sequence;
`before` then holds the states before each (triton_segments.py).
"""

# mypy: ignore-errors
# (in a kernel a tuple grows and names are Triton values)

import triton
import triton.language as tl

from models.selective_scan.triton_parts import (
    LOG2_E,
    block_of_channels,
    expand,
    hold,
    load_A,
    load_or_zero,
    load_states,
    load_steps,
    place_in_tile,
    step_size,
    sum_states,
    touch,
)


@triton.jit
def forward_steps(
    x, a, u, delta, B, C, z, y, out, channel, exists, shift, skip, scale, zero,
    FIRST: tl.constexpr, LAST: tl.constexpr, SIGN: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr,
    U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr, Z_TIME: tl.constexpr, DIM: tl.constexpr,
    HAS_Z: tl.constexpr, SOFTPLUS: tl.constexpr, KEEP: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr,
):  # fmt: skip
    """STEPS steps from the state x on; the pointers are those of the first. The first direction leaves its y where the
    last one adds its own: in y if there is a gate, else in out."""
    touched = touch(B, C, SIGN * B_TIME, STEPS, STATES)
    us = load_steps(u + channel, SIGN * U_TIME, exists, STEPS)
    raw_deltas = load_steps(delta + channel, SIGN * DELTA_TIME, exists, STEPS)
    if not FIRST:
        others = load_steps((y if HAS_Z else out) + channel, SIGN * DIM, exists, STEPS)
    if LAST and HAS_Z:
        zs = load_steps(z + channel, SIGN * Z_TIME, exists, STEPS)
    deltas, inputs, ys = (), (), ()
    for i in tl.static_range(STEPS):
        u_t = us[i].to(tl.float32)
        delta_t, _ = step_size(raw_deltas[i], shift, SOFTPLUS, False)
        deltas += (delta_t,)
        inputs += (delta_t * u_t,)
        ys += (skip * u_t if FIRST else skip * u_t + others[i].to(tl.float32),)
    sums = ()
    for i in tl.static_range(STEPS):
        B_t = load_states(B + i * SIGN * B_TIME, STATES, NR, NL)
        x = tl.exp2(expand(deltas[i], CR) * a) * x + expand(inputs[i], CR) * B_t
        sums += (ys[i] + sum_states(x * load_states(C + i * SIGN * B_TIME, STATES, NR, NL), CR),)
    hold(touched, B, zero)
    for i in tl.static_range(STEPS):
        at = i * SIGN * DIM + channel
        if HAS_Z:
            if KEEP or not LAST:
                tl.store(y + at, sums[i], mask=exists)
            if LAST:
                z_t = zs[i].to(tl.float32)
                tl.store(out + at, scale * sums[i] * z_t * tl.sigmoid(z_t), mask=exists)
        else:
            tl.store(out + at, sums[i] * scale if LAST else sums[i], mask=exists)
    return x


@triton.jit
def forward_direction(
    d, u, delta, A, B, C, D, bias, z, out, y, states, before,
    length, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
    FIRST: tl.constexpr, LAST: tl.constexpr, SIGN: tl.constexpr, STATES: tl.constexpr,
    U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr, Z_TIME: tl.constexpr, DIM: tl.constexpr,
    LOG_A: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    KEEP: tl.constexpr, SEGMENTS: tl.constexpr, HALF: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = NR * CR * NL * CL
    group, first, channel, exists = block_of_channels(group_dim, CR, CL)
    n, c = place_in_tile(NR, CR, NL, CL)
    in_tile = n * (CR * CL) + c
    item = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(2) * segment_length
    steps = tl.minimum(segment_length, length - begin)
    start = begin + steps - 1 if SIGN < 0 else begin
    u += item * u_batch + first
    delta += item * delta_batch + first
    B += item * b_batch + group * b_group
    C += item * b_batch + group * b_group
    z += item * z_batch + first
    y += item * length * DIM + first
    out += item * length * DIM + first
    a = load_A(A, first, group_dim - (first - group * group_dim), zero, LOG_A, STATES, NR, CR, NL, CL)
    a = tl.reshape(a * LOG2_E, (NR, CR, NL, CL))
    skip = load_or_zero(D + first + channel, exists, HAS_D)
    shift = load_or_zero(bias + first + channel, exists, HAS_BIAS)
    tile = (d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)
    states += (tile * tl.cdiv(length, 2 * HALF) + begin // (2 * HALF)) * TILE + zero
    if SEGMENTS:
        x = tl.load(before + (tile * tl.num_programs(2) + tl.program_id(2)) * TILE + zero + in_tile)
        x = tl.reshape(x, (NR, CR, NL, CL))
    else:
        x = tl.zeros((NR, CR, NL, CL), tl.float32)
    for half in range(0, steps // HALF):
        if KEEP:  # noqa: SIM102  (what is not kept has no code)
            if half % 2 == 0:
                tl.store(states + in_tile, tl.reshape(x, (NR * CR, NL * CL)))
                states += TILE
        t = start + SIGN * half * HALF
        x = forward_steps(
            x, a, u + t * U_TIME, delta + t * DELTA_TIME, B + t * B_TIME, C + t * B_TIME, z + t * Z_TIME,
            y + t * DIM, out + t * DIM, channel, exists, shift, skip, scale, zero,
            FIRST, LAST, SIGN, HALF, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, DIM, HAS_Z, SOFTPLUS, KEEP, NR, CR, NL,
        )  # fmt: skip
    for step in range(steps // HALF * HALF, steps):
        if KEEP:  # noqa: SIM102
            if step % (2 * HALF) == 0:
                tl.store(states + in_tile, tl.reshape(x, (NR * CR, NL * CL)))
        t = start + SIGN * step
        x = forward_steps(
            x, a, u + t * U_TIME, delta + t * DELTA_TIME, B + t * B_TIME, C + t * B_TIME, z + t * Z_TIME,
            y + t * DIM, out + t * DIM, channel, exists, shift, skip, scale, zero,
            FIRST, LAST, SIGN, 1, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, DIM, HAS_Z, SOFTPLUS, KEEP, NR, CR, NL,
        )  # fmt: skip


@triton.jit(do_not_specialize=["zero"])
def scan_forward_kernel(
    u, delta, A, B, C, D, bias, z, out, y, states, before,
    length, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
    U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr, Z_TIME: tl.constexpr, DIM: tl.constexpr,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, KEEP: tl.constexpr, SEGMENTS: tl.constexpr, HALF: tl.constexpr,
    STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """out = scale * silu(z) * y, y being the directions' sum; y is kept where there is a z and KEEP is set."""
    SIGN: tl.constexpr = -1 if REVERSE else 1
    forward_direction(
        0, u[0], delta[0], A[0], B[0], C[0], D[0], bias[0], z, out, y, states, before,
        length, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
        True, DIRECTIONS == 1, SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, DIM,
        LOG_A, HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, KEEP, SEGMENTS, HALF, NR, CR, NL, CL,
    )  # fmt: skip
    if DIRECTIONS == 2:
        tl.debug_barrier()  # the second direction reads what other threads of the program wrote in the first
        forward_direction(
            1, u[1], delta[1], A[1], B[1], C[1], D[1], bias[1], z, out, y, states, before,
            length, segment_length, group_dim, scale, u_batch, delta_batch, b_batch, b_group, z_batch, zero,
            False, True, -SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, Z_TIME, DIM,
            LOG_A, HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, KEEP, SEGMENTS, HALF, NR, CR, NL, CL,
        )  # fmt: skip
