"""Triton kernels of the selective scan: both directions in one program, the state in registers, in float32.

A program owns one batch item and a block of channels and walks through time, CHUNK steps at a time. Its state is a tile
(NR, CR, NL, CL): state number n = nr * NL + nl, channel = cr * CL + cl. Triton hands out the threads of a warp from the
last axis on, so with NL * CL = 32 the axes NR and CR lie in each thread's registers: a step costs no shared memory, and
sums over the states or the channels cost few shuffles. In memory a tile is (rows, lanes) = (NR * CR, NL * CL) with
neighbouring channels side by side. The size "zero" is 0 and hides from the compiler that rows are aligned, for it would
hand several neighbours to a thread, load them at once, and lay out the whole tile that way.

Sequences are channel-last (channel stride 1), A is (states, dim). B and C are float32 and come as pairs read at once,
an int64 each, in (batch, groups, length, states). Arguments with one tensor per direction are tuples; direction 0 runs
backwards in time if REVERSE, direction 1 the other way. reference.py has the formulas.
"""

# mypy: ignore-errors
# (in a kernel a tuple grows and names are Triton values)

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), relative error 3e-7."""
    e = tl.exp(-tl.abs(x))
    # log(1 + e) / e on [0, 1]: Chebyshev fit, relative error 2e-7; a logarithm would lose all digits for small e
    p = 0.005253457929939032 * e - 0.02958850748836994
    p = p * e + 0.07836166769266129
    p = p * e - 0.13674770295619965
    p = p * e + 0.19111430644989014
    p = p * e - 0.24844369292259216
    p = p * e + 0.33319270610809326
    p = p * e - 0.49999502301216125
    return tl.maximum(x, 0.0) + (p * e + 1.0) * e


@triton.jit
def load_delta(pointer, bias, mask, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr):
    """Delta, 0 outside of the mask, where the state then stays as it is."""
    delta = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        delta += bias
    return tl.where(mask, softplus(delta) if SOFTPLUS else delta, 0.0)


@triton.jit
def load_pair(pointer, mask):
    """B and C as float32 from the halves of an int64."""
    pair = tl.load(pointer, mask=mask, other=0)
    return pair.to(tl.int32).to(tl.float32, bitcast=True), (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def block_of_channels(group_dim, CR: tl.constexpr, CL: tl.constexpr):
    """(group, first channel, channels (CR, CL) counted from it, how many exist)."""
    blocks = tl.cdiv(group_dim, CR * CL)
    group = tl.program_id(0) // blocks
    within = (tl.program_id(0) % blocks) * CR * CL
    channel = tl.arange(0, CR)[:, None] * CL + tl.arange(0, CL)[None, :]
    return group, group * group_dim + within, channel, group_dim - within


@triton.jit
def rows_and_lanes(NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr):
    """(state number, channel) at each place of a tile in memory."""
    row, lane = tl.arange(0, NR * CR)[:, None], tl.arange(0, NL * CL)[None, :]
    return (row // CR) * NL + lane // CL, (row % CR) * CL + lane % CL


@triton.jit
def sum_states(x):
    """(NR, CR, NL, CL) -> (CR, CL)"""
    return tl.sum(tl.sum(x, axis=0), axis=1)


@triton.jit
def sum_channels(x):
    """(NR, CR, NL, CL) -> (NR, NL)"""
    return tl.sum(tl.sum(x, axis=1), axis=2)


@triton.jit
def over_states(x):
    """(CR, CL) -> (1, CR, 1, CL)"""
    return x[None, :, None, :]


@triton.jit(do_not_specialize=["zero"])
def scan_forward_kernel(
    u, delta, A, BC, D, bias, z, out, y, states,
    length, dim, group_dim, scale, u_batch, u_time, delta_batch, delta_time, z_batch, z_time, zero,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, KEEP_STATES: tl.constexpr,
    CHUNK: tl.constexpr, STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """out = scale * silu(z) * y, y being the directions' sum; y is kept where there is a z, else it is out / scale."""
    TILE: tl.constexpr = NR * CR * NL * CL
    group, first, channel, existing = block_of_channels(group_dim, CR, CL)
    exists = channel < existing
    n_tile, channel_tile = rows_and_lanes(NR, CR, NL, CL)
    in_A, known_A = n_tile * dim + first + channel_tile + zero, (n_tile < STATES) & (channel_tile < existing)
    in_tile = n_tile * (CR * CL) + channel_tile + zero
    channel += first
    item = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(length, CHUNK)
    n = tl.arange(0, NR)[:, None, None, None] * NL + tl.arange(0, NL)[None, None, :, None]
    out_row, y_row = out + item * length * dim + channel, y + item * length * dim + channel
    bc_row = (item * (dim // group_dim) + group) * length * STATES + n
    z_row = z + item * z_batch + channel

    for d in tl.static_range(DIRECTIONS):
        u_row, delta_row = u[d] + item * u_batch + channel, delta[d] + item * delta_batch + channel
        a = tl.reshape(tl.load(A[d] + in_A, mask=known_A, other=0.0), (NR, CR, NL, CL))
        a = (-tl.exp(a) if LOG_A else a) * LOG2_E
        skip = tl.load(D[d] + channel, mask=exists, other=0.0).to(tl.float32) if HAS_D else 0.0
        shift = tl.load(bias[d] + channel, mask=exists, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        kept = states + ((d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)) * chunks * TILE
        kept += in_tile
        x = tl.zeros((NR, CR, NL, CL), tl.float32)
        for chunk in range(0, chunks):
            if KEEP_STATES:
                tl.store(kept + chunk * TILE, tl.reshape(x, (NR * CR, NL * CL)))
            # All loads come first and all stores last, for no load may be moved across a store.
            us, deltas, befores, zs, ys = (), (), (), (), ()
            for i in tl.static_range(CHUNK):
                step = chunk * CHUNK + i
                t = length - 1 - step if (d == 0) == REVERSE else step
                here = exists & (step < length)
                us += (tl.load(u_row + t * u_time, mask=here, other=0.0).to(tl.float32),)
                deltas += (load_delta(delta_row + t * delta_time, shift, here, HAS_BIAS, SOFTPLUS),)
                if d > 0:
                    befores += (tl.load((y_row if HAS_Z else out_row) + t * dim, mask=here, other=0.0).to(tl.float32),)
                if HAS_Z and d == DIRECTIONS - 1:
                    zs += (tl.load(z_row + t * z_time, mask=here, other=0.0).to(tl.float32),)
            for i in tl.static_range(CHUNK):
                step = chunk * CHUNK + i
                t = length - 1 - step if (d == 0) == REVERSE else step
                B_t, C_t = load_pair(BC[d] + bc_row + t * STATES, (n < STATES) & (step < length))
                x = tl.exp2(over_states(deltas[i]) * a) * x + over_states(deltas[i] * us[i]) * B_t
                ys += (sum_states(x * C_t) + skip * us[i],)
            for i in tl.static_range(CHUNK):
                step = chunk * CHUNK + i
                t = length - 1 - step if (d == 0) == REVERSE else step
                here = exists & (step < length)
                y_t = ys[i] + befores[i] if d > 0 else ys[i]
                if HAS_Z:
                    tl.store(y_row + t * dim, y_t, mask=here)
                    if d == DIRECTIONS - 1:
                        tl.store(out_row + t * dim, scale * y_t * zs[i] * tl.sigmoid(zs[i]), mask=here)
                else:
                    tl.store(out_row + t * dim, y_t if d < DIRECTIONS - 1 else scale * y_t, mask=here)
        tl.debug_barrier()  # the second direction reads what other threads of the program wrote in the first


@triton.jit(do_not_specialize=["zero"])
def scan_backward_kernel(
    grad_out, u, delta, A, BC, D, bias, z, y, states,
    grad_u, grad_delta, grad_z, grad_BC, grad_A, grad_D, grad_bias,
    length, dim, group_dim, scale,
    grad_batch, grad_time, u_batch, u_time, delta_batch, delta_time, z_batch, z_time, zero,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr, STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """Gradients, from the states before each chunk. Programs never add to the same number: the gradients of B and C are
    (direction, 2, batch, block of channels, length, states), those of A, D and bias (direction, batch, ..., dim)."""
    TILE: tl.constexpr = NR * CR * NL * CL
    group, first, channel, existing = block_of_channels(group_dim, CR, CL)
    exists = channel < existing
    n_tile, channel_tile = rows_and_lanes(NR, CR, NL, CL)
    in_A, known_A = n_tile * dim + first + channel_tile + zero, (n_tile < STATES) & (channel_tile < existing)
    in_tile = n_tile * (CR * CL) + channel_tile + zero
    channel += first
    item = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(length, CHUNK)
    n = tl.arange(0, NR)[:, None, None, None] * NL + tl.arange(0, NL)[None, None, :, None]
    n2 = tl.arange(0, NR)[:, None] * NL + tl.arange(0, NL)[None, :]
    dense = item * length * dim + channel  # where the row starts in y and in the gradients
    bc_row = (item * (dim // group_dim) + group) * length * STATES + n
    z_row, grad_row = z + item * z_batch + channel, grad_out + item * grad_batch + channel
    log2_e = LOG2_E + zero.to(tl.float32)  # unknown to the compiler, lest it keep a chunk's decays in registers
    parts = tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * length * STATES

    for d in tl.static_range(DIRECTIONS):
        u_row, delta_row = u[d] + item * u_batch + channel, delta[d] + item * delta_batch + channel
        a = tl.reshape(tl.load(A[d] + in_A, mask=known_A, other=0.0), (NR, CR, NL, CL))
        a = -tl.exp(a) if LOG_A else a
        skip = tl.load(D[d] + channel, mask=exists, other=0.0).to(tl.float32) if HAS_D else 0.0
        shift = tl.load(bias[d] + channel, mask=exists, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        kept = states + ((d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)) * chunks * TILE
        kept += in_tile
        part = 2 * d * parts + (item * tl.num_programs(0) + tl.program_id(0)) * length * STATES + n2
        carried = tl.zeros((NR, CR, NL, CL), tl.float32)  # the gradient of the state that comes from later steps
        sum_A = tl.zeros((NR, CR, NL, CL), tl.float32)
        sum_D = tl.zeros((CR, CL), tl.float32)
        sum_bias = tl.zeros((CR, CL), tl.float32)
        for behind in range(0, chunks):
            chunk = chunks - 1 - behind
            x = tl.reshape(tl.load(kept + chunk * TILE), (NR, CR, NL, CL))
            xs, us, deltas = (x,), (), ()
            for i in tl.static_range(CHUNK):
                step = chunk * CHUNK + i
                t = length - 1 - step if (d == 0) == REVERSE else step
                here = exists & (step < length)
                us += (tl.load(u_row + t * u_time, mask=here, other=0.0).to(tl.float32),)
                deltas += (load_delta(delta_row + t * delta_time, shift, here, HAS_BIAS, SOFTPLUS),)
            for i in tl.static_range(CHUNK - 1):
                step = chunk * CHUNK + i
                t = length - 1 - step if (d == 0) == REVERSE else step
                B_t, _ = load_pair(BC[d] + bc_row + t * STATES, (n < STATES) & (step < length))
                x = tl.exp2(over_states(deltas[i] * LOG2_E) * a) * x + over_states(deltas[i] * us[i]) * B_t
                xs += (x,)
            for back in tl.static_range(CHUNK):
                step = chunk * CHUNK + CHUNK - 1 - back
                t = length - 1 - step if (d == 0) == REVERSE else step
                here = exists & (step < length)
                u_t, delta_t, before = us[CHUNK - 1 - back], deltas[CHUNK - 1 - back], xs[CHUNK - 1 - back]
                grad_y = scale * tl.load(grad_row + t * grad_time, mask=here, other=0.0).to(tl.float32)
                if HAS_Z:
                    z_t = tl.load(z_row + t * z_time, mask=here, other=0.0).to(tl.float32)
                    gate = tl.sigmoid(z_t)
                    if d == 0:
                        y_t = tl.load(y + dense + t * dim, mask=here, other=0.0).to(tl.float32)
                        tl.store(grad_z + dense + t * dim, grad_y * y_t * gate * (1.0 + z_t * (1.0 - gate)), mask=here)
                    grad_y *= z_t * gate
                B_t, C_t = load_pair(BC[d] + bc_row + t * STATES, (n < STATES) & (step < length))
                decay = tl.exp2(over_states(delta_t * log2_e) * a)
                x = decay * before + over_states(delta_t * u_t) * B_t
                grad_x = carried + over_states(grad_y) * C_t
                carried = decay * grad_x
                by_decay = carried * before
                by_B = sum_states(grad_x * B_t)
                grad_delta_t = sum_states(by_decay * a) + by_B * u_t
                if SOFTPLUS:
                    raw = tl.load(delta_row + t * delta_time, mask=here, other=0.0).to(tl.float32)
                    grad_delta_t *= tl.sigmoid(raw + shift)
                sum_A += by_decay * over_states(delta_t)
                sum_D += grad_y * u_t
                sum_bias += grad_delta_t
                tl.store(grad_u[d] + dense + t * dim, by_B * delta_t + skip * grad_y, mask=here)
                tl.store(grad_delta[d] + dense + t * dim, grad_delta_t, mask=here)
                known = (n2 < STATES) & (step < length)
                tl.store(grad_BC + part + t * STATES, sum_channels(grad_x * over_states(delta_t * u_t)), mask=known)
                tl.store(grad_BC + part + parts + t * STATES, sum_channels(over_states(grad_y) * x), mask=known)
        of_channel = (d * tl.num_programs(1) + item) * dim + channel
        sum_A = tl.reshape(sum_A * a if LOG_A else sum_A, (NR * CR, NL * CL))
        tl.store(grad_A + (d * tl.num_programs(1) + item) * STATES * dim + in_A, sum_A, mask=known_A)
        if HAS_D:
            tl.store(grad_D + of_channel, sum_D, mask=exists)
        if HAS_BIAS:
            tl.store(grad_bias + of_channel, sum_bias, mask=exists)
