"""The backward kernel of the selective scan: float32, one direction per program, from the states before each chunk.

A program (triton_parts.py) goes through half-chunks of HALF steps from the last to the first. It computes their states
again, which stay in registers, and then walks back through them. While one half is computed, what the next one needs
is loaded or fetched into the first cache: registers leave room for few warps, too few to hide that they wait.
Memory is laid out as for the forward pass (triton_forward.py). In a long sequence, `behind` holds the gradients of the
states behind each segment.

No two programs add to the same number: the gradients of B and C are (direction, batch, program, length, 2, states),
those of A, D and bias lie one behind the other in (direction, part, dim * (states + 2)), a part being a segment of an
item. triton_sums.py adds them up.
"""

# mypy: ignore-errors
# (in a kernel a tuple grows and names are Triton values)

import triton
import triton.language as tl

from models.selective_scan.triton_parts import (
    LN_2,
    LOG2_E,
    block_of_channels,
    exchange,
    expand,
    gated,
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
def load_rows(
    u, delta, grad_out, z, channel, exists,
    SIGN: tl.constexpr, STEPS: tl.constexpr, U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, G_TIME: tl.constexpr,
    Z_TIME: tl.constexpr, HAS_Z: tl.constexpr,
):  # fmt: skip
    """What STEPS steps read, as it lies in memory: (u, delta, the output's gradient, z)."""
    us = load_steps(u + channel, SIGN * U_TIME, exists, STEPS)
    deltas = load_steps(delta + channel, SIGN * DELTA_TIME, exists, STEPS)
    grads = load_steps(grad_out + channel, SIGN * G_TIME, exists, STEPS)
    zs = load_steps(z + channel, SIGN * Z_TIME, exists, STEPS) if HAS_Z else us
    return us, deltas, grads, zs


@triton.jit
def advance(
    x, a, us, deltas, B, shift, SIGN: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, B_TIME: tl.constexpr,
    SOFTPLUS: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr,
):  # fmt: skip
    """The state after STEPS steps from x on."""
    for i in tl.static_range(STEPS):
        delta_t, _ = step_size(deltas[i], shift, SOFTPLUS, False)
        B_t = load_states(B + i * SIGN * B_TIME, STATES, NR, NL)
        x = tl.exp2(expand(delta_t, CR) * a) * x + expand(delta_t * us[i].to(tl.float32), CR) * B_t
    return x


@triton.jit
def backward_steps(
    carried, sum_A, sum_D, sum_bias, x, a, rows, touched, B, C, y, grad_u, grad_delta, grad_z, grad_BC,
    channel, exists, shift, skip, scale, d: tl.constexpr, zero,
    SIGN: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, B_TIME: tl.constexpr, GZ_TIME: tl.constexpr,
    DIM: tl.constexpr,
    HAS_Z: tl.constexpr, SOFTPLUS: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """Back through STEPS steps, which read `rows`; x is the state before the first, to which the pointers point.

    The sums over channels, which B and C share, are those of STEPS steps at a time: 2 * STEPS tensors (NR, NL, CL)
    become one, in which thread cl has the sums of B or C (first bit of cl) at step (the other bits).
    """
    us, deltas, slopes, grads, by_ys = (), (), (), (), ()
    if HAS_Z and d == 0:
        ys = load_steps(y + channel, SIGN * DIM, exists, STEPS)
    for i in tl.static_range(STEPS):
        us += (rows[0][i].to(tl.float32),)
        delta_t, slope = step_size(rows[1][i], shift, SOFTPLUS, True)
        deltas += (delta_t,)
        slopes += (slope,)
        grad_y, by_y = gated(rows[2][i], rows[3][i], scale, HAS_Z)
        grads += (grad_y,)
        by_ys += (by_y,)
    xs = (x,)
    for i in tl.static_range(STEPS):
        B_t = load_states(B + i * SIGN * B_TIME, STATES, NR, NL)
        x = tl.exp2(expand(deltas[i], CR) * a) * x + expand(deltas[i] * us[i], CR) * B_t
        xs += (x,)
    if HAS_Z and d == 0:
        for i in tl.static_range(STEPS):
            tl.store(grad_z + i * SIGN * GZ_TIME + channel, by_ys[i] * ys[i].to(tl.float32), mask=exists)
    if STEPS > 1:
        hold(touched[0], B, zero)
        hold(touched[1], grad_BC, zero)
    unknown = zero.to(tl.float32)  # to the compiler, lest it keep what it can compute again
    grad_us, grad_deltas = (), ()
    for i in tl.static_range(STEPS - 1, -1, -1):
        B_t = load_states(B + i * SIGN * B_TIME, STATES, NR, NL)
        C_t = load_states(C + i * SIGN * B_TIME, STATES, NR, NL)
        u_t, delta_t, grad_y = us[i], deltas[i], grads[i]
        of_y, by_time = expand(grad_y + unknown, CR), expand(delta_t + unknown, CR)
        grad_x = carried + of_y * C_t
        carried = tl.exp2(by_time * a) * grad_x
        by_decay = carried * xs[i]
        by_B = sum_states(grad_x * B_t, CR)
        grad_delta_t = (sum_states(by_decay * a, CR) * LN_2 + by_B * u_t) * slopes[i]
        sum_A += by_decay * by_time
        sum_D += grad_y * u_t
        sum_bias += grad_delta_t
        grad_us += (by_B * delta_t + skip * grad_y,)
        grad_deltas += (grad_delta_t,)
        of_B = tl.sum(grad_x * expand(delta_t * (u_t + unknown), CR), 1)
        of_C = tl.sum(of_y * xs[i + 1], 1)
        sums = exchange(of_B, of_C, 0)
        if STEPS > 1:
            if i % 2 == 1:
                odd = sums
            else:
                sums = exchange(sums, odd, 1)
                if STEPS > 2:
                    if i % 4 == 2:
                        upper = sums
                    else:
                        sums = exchange(sums, upper, 2)
    SUMS: tl.constexpr = 2 * STEPS
    sums = tl.sum(tl.reshape(sums, (NR, NL, CL // SUMS, SUMS)), 2)
    sum_of = tl.arange(0, SUMS)[None, None, :]
    n = tl.arange(0, NL)[None, :, None] * NR + tl.arange(0, NR)[:, None, None]
    tl.store(grad_BC + (sum_of // 2) * (SIGN * 2 * STATES) + (sum_of % 2) * STATES + n, sums, mask=n < STATES)
    for i in tl.static_range(STEPS):
        at = i * SIGN * DIM + channel
        tl.store(grad_u + at, grad_us[STEPS - 1 - i], mask=exists)
        tl.store(grad_delta + at, grad_deltas[STEPS - 1 - i], mask=exists)
    return carried, sum_A, sum_D, sum_bias


@triton.jit(noinline=True)  # Triton's compiler takes a time that grows with the square of a function's length
def backward_direction(
    d: tl.constexpr, grad_out, u, delta, A, B, C, D, bias, z, y, states, behind,
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters,
    length, segment, segments, segment_length, group_dim, scale,
    g_batch, u_batch, delta_batch, b_batch, b_group, z_batch, gz_batch, zero,
    SIGN: tl.constexpr, STATES: tl.constexpr, U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr,
    G_TIME: tl.constexpr, Z_TIME: tl.constexpr, GZ_TIME: tl.constexpr, DIM: tl.constexpr,
    LOG_A: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    SEGMENTS: tl.constexpr, HALF: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = NR * CR * NL * CL
    program, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    group, first, channel, exists = block_of_channels(group_dim, CR, CL)
    channels = group_dim - (first - group * group_dim)
    n, c = place_in_tile(NR, CR, NL, CL)
    in_tile = n * (CR * CL) + c
    begin = segment * segment_length
    steps = tl.minimum(segment_length, length - begin)
    start = begin + steps - 1 if SIGN < 0 else begin
    a = load_A(A, first, channels, zero, LOG_A, STATES, NR, CR, NL, CL)
    a = tl.reshape(a * LOG2_E, (NR, CR, NL, CL))
    skip = load_or_zero(D + first + channel, exists, HAS_D)
    shift = load_or_zero(bias + first + channel, exists, HAS_BIAS)
    tile = (d * tl.num_programs(1) + item) * tl.num_programs(0) + program
    states += (tile * tl.cdiv(length, 2 * HALF) + begin // (2 * HALF)) * TILE + zero
    if SEGMENTS:
        carried = tl.load(behind + (tile * segments + segment) * TILE + zero + in_tile)
        carried = tl.reshape(carried, (NR, CR, NL, CL))
    else:
        carried = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_A = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_D = tl.zeros((1, 1, CR, CL), tl.float32)
    sum_bias = tl.zeros((1, 1, CR, CL), tl.float32)
    u += item * u_batch + first
    delta += item * delta_batch + first
    B += item * b_batch + group * b_group
    C += item * b_batch + group * b_group
    grad_out += item * g_batch + first
    z += item * z_batch + first
    grad_z += item * gz_batch + first
    whole = steps // HALF
    for step in range(steps - 1, whole * HALF - 1, -1):  # those that make no half
        x = tl.reshape(tl.load(states + step // (2 * HALF) * TILE + in_tile), (NR, CR, NL, CL))
        for earlier in range(step // (2 * HALF) * (2 * HALF), step):
            t = start + SIGN * earlier
            us = load_steps(u + t * U_TIME + channel, 0, exists, 1)
            deltas = load_steps(delta + t * DELTA_TIME + channel, 0, exists, 1)
            x = advance(x, a, us, deltas, B + t * B_TIME, shift, SIGN, 1, STATES, B_TIME, SOFTPLUS, NR, CR, NL)
        t = start + SIGN * step
        dense = (item * length + t) * DIM + first
        rows = load_rows(
            u + t * U_TIME, delta + t * DELTA_TIME, grad_out + t * G_TIME, z + t * Z_TIME, channel, exists,
            SIGN, 1, U_TIME, DELTA_TIME, G_TIME, Z_TIME, HAS_Z,
        )  # fmt: skip
        carried, sum_A, sum_D, sum_bias = backward_steps(
            carried, sum_A, sum_D, sum_bias, x, a, rows, None, B + t * B_TIME, C + t * B_TIME, y + dense,
            grad_u + dense, grad_delta + dense, grad_z + t * GZ_TIME, grad_BC + (tile * length + t) * (2 * STATES),
            channel, exists, shift, skip, scale, d, zero,
            SIGN, 1, STATES, B_TIME, GZ_TIME, DIM, HAS_Z, SOFTPLUS, NR, CR, NL, CL,
        )  # fmt: skip
    t = start + SIGN * tl.maximum(whole - 1, 0) * HALF
    ahead = load_rows(
        u + t * U_TIME, delta + t * DELTA_TIME, grad_out + t * G_TIME, z + t * Z_TIME,
        channel, exists & (whole > 0), SIGN, HALF, U_TIME, DELTA_TIME, G_TIME, Z_TIME, HAS_Z,
    )  # fmt: skip
    for half in range(whole - 1, -1, -1):
        rows = ahead
        x = tl.reshape(tl.load(states + half // 2 * TILE + in_tile), (NR, CR, NL, CL))
        before = tl.maximum(half - 1, 0)  # the next to come, whose memory is on its way while this one is computed
        t = start + SIGN * before * HALF
        ahead = load_rows(
            u + t * U_TIME, delta + t * DELTA_TIME, grad_out + t * G_TIME, z + t * Z_TIME, channel, exists,
            SIGN, HALF, U_TIME, DELTA_TIME, G_TIME, Z_TIME, HAS_Z,
        )  # fmt: skip
        kept = tl.load(states + before // 2 * TILE + tl.arange(0, TILE // 8) * 8)
        touched = touch(B + t * B_TIME, C + t * B_TIME, SIGN * B_TIME, HALF, STATES), kept
        if half % 2 == 1:
            x = advance(
                x, a, ahead[0], ahead[1], B + t * B_TIME, shift,
                SIGN, HALF, STATES, B_TIME, SOFTPLUS, NR, CR, NL,
            )  # fmt: skip
        t = start + SIGN * half * HALF
        dense = (item * length + t) * DIM + first
        carried, sum_A, sum_D, sum_bias = backward_steps(
            carried, sum_A, sum_D, sum_bias, x, a, rows, touched, B + t * B_TIME, C + t * B_TIME, y + dense,
            grad_u + dense, grad_delta + dense, grad_z + t * GZ_TIME, grad_BC + (tile * length + t) * (2 * STATES),
            channel, exists, shift, skip, scale, d, zero,
            SIGN, HALF, STATES, B_TIME, GZ_TIME, DIM, HAS_Z, SOFTPLUS, NR, CR, NL, CL,
        )  # fmt: skip
    grad_parameters += ((d * tl.num_programs(1) + item) * segments + segment) * (DIM * (STATES + 2))
    sum_A = tl.reshape(sum_A * a * LN_2 if LOG_A else sum_A, (NR * CR, NL * CL))
    # as in load_A, but not the same to the compiler, which would keep all places until here
    tl.store(grad_parameters + (first + c) * STATES + n * (1 - zero), sum_A, mask=(n < STATES) & (c < channels))
    if HAS_D:
        tl.store(grad_parameters + DIM * STATES + first + channel, sum_D, mask=exists)
    if HAS_BIAS:
        tl.store(grad_parameters + DIM * (STATES + 1) + first + channel, sum_bias, mask=exists)


@triton.jit(do_not_specialize=["zero"])
def scan_backward_kernel(
    grad_out, u, delta, A, B, C, D, bias, z, y, states, behind,
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters,
    length, segment_length, group_dim, scale, g_batch, u_batch, delta_batch, b_batch, b_group, z_batch, gz_batch, zero,
    U_TIME: tl.constexpr, DELTA_TIME: tl.constexpr, B_TIME: tl.constexpr, G_TIME: tl.constexpr, Z_TIME: tl.constexpr,
    GZ_TIME: tl.constexpr, DIM: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, SEGMENTS: tl.constexpr,
    HALF: tl.constexpr, STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    SIGN: tl.constexpr = -1 if REVERSE else 1
    segments = tl.num_programs(2) // DIRECTIONS
    segment = tl.program_id(2) % segments
    if DIRECTIONS == 1 or tl.program_id(2) < segments:
        backward_direction(
            0, grad_out, u[0], delta[0], A[0], B[0], C[0], D[0], bias[0], z, y, states, behind,
            grad_u[0], grad_delta[0], grad_z, grad_BC, grad_parameters,
            length, segment, segments, segment_length, group_dim, scale,
            g_batch, u_batch, delta_batch, b_batch, b_group, z_batch, gz_batch, zero,
            SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, G_TIME, Z_TIME, GZ_TIME, DIM,
            LOG_A, HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, SEGMENTS, HALF, NR, CR, NL, CL,
        )  # fmt: skip
    else:
        backward_direction(
            1, grad_out, u[1], delta[1], A[1], B[1], C[1], D[1], bias[1], z, y, states, behind,
            grad_u[1], grad_delta[1], grad_z, grad_BC, grad_parameters,
            length, segment, segments, segment_length, group_dim, scale,
            g_batch, u_batch, delta_batch, b_batch, b_group, z_batch, gz_batch, zero,
            -SIGN, STATES, U_TIME, DELTA_TIME, B_TIME, G_TIME, Z_TIME, GZ_TIME, DIM,
            LOG_A, HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, SEGMENTS, HALF, NR, CR, NL, CL,
        )  # fmt: skip
