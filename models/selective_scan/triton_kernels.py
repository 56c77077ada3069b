"""Triton kernels of the selective scan, in float32 with the state in registers; forward, both directions in turn.

A program owns one batch item and a block of channels. It walks through time, CHUNK steps at a time. Its state is a tile
(NR, CR, NL, CL): state number n = nl * NR + nr, channel = cr * CL + cl. Triton distributes the threads of a warp from
the last axis on. With NL * CL = 32, the axes NR and CR therefore lie in each thread's registers: a step needs no shared
memory, and sums over states or channels need few shuffles. In memory a tile is (rows, lanes) = (NR * CR, NL * CL), with
neighbouring channels side by side. The argument "zero" is 0. It hides from the compiler that tiles are aligned;
otherwise the compiler would give several neighbours to a thread, load them at once, and lay out the whole tile that
way. It is added to the pointer, not to the offsets in the tile: these stay constants, which take no registers.

Sequences are channel-last (channel stride 1); A is cut into tiles (triton_tiles.py). B and C are (batch, groups,
length, states) with equal strides, that of the states being 1. Arguments with one tensor per direction are tuples.
Direction 0 runs backwards in time if REVERSE is set, direction 1 the other way. A step beyond the last one has a delta
of 0, which leaves the state unchanged, and reads the B and C of the last step. reference.py has the formulas.
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
def load_A(pointer, LOG_A: tl.constexpr):
    a = tl.load(pointer)
    return -tl.exp(a) if LOG_A else a


@triton.jit
def load_delta(pointer, bias, mask, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr):
    """Delta; outside the mask it is 0, which leaves the state unchanged."""
    delta = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        delta += bias
    return tl.where(mask, softplus(delta) if SOFTPLUS else delta, 0.0)


@triton.jit
def of(pair, d):
    """The entry of direction d, which is known only at run time: both directions share their code."""
    return tl.where(d == 0, pair[0], pair[len(pair) - 1])


@triton.jit
def walk(d, REVERSE: tl.constexpr, length):
    """(position of the first step, distance from one step to the next)."""
    backwards = (d == 0) == REVERSE
    return tl.where(backwards, length - 1, 0), tl.where(backwards, -1, 1)


@triton.jit
def load_states(pointer, mask):
    """B or C of one step, float32."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def block_of_channels(group_dim, CR: tl.constexpr, CL: tl.constexpr):
    """(group, channels (CR, CL) of the program, which of them exist)."""
    blocks = tl.cdiv(group_dim, CR * CL)
    group = tl.program_id(0) // blocks
    within = (tl.program_id(0) % blocks) * CR * CL
    channel = tl.arange(0, CR)[:, None] * CL + tl.arange(0, CL)[None, :]
    return group, channel + (group * group_dim + within), channel < group_dim - within


@triton.jit
def place_in_tile(NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr):
    """Where the numbers of a tile lie in memory: (rows, lanes)."""
    row, lane = tl.arange(0, NR * CR)[:, None], tl.arange(0, NL * CL)[None, :]
    return ((lane // CL) * NR + row // CR) * (CR * CL) + (row % CR) * CL + lane % CL


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
    u, delta, A, B, C, D, bias, z, out, y, states,
    length, dim, group_dim, scale,
    u_batch, u_time, delta_batch, delta_time, b_batch, b_group, b_time, z_batch, z_time, zero,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, KEEP_STATES: tl.constexpr,
    CHUNK: tl.constexpr, STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """out = scale * silu(z) * y, y being the directions' sum; y is kept where there is a z, else it is out / scale."""
    TILE: tl.constexpr = NR * CR * NL * CL
    HALF: tl.constexpr = CHUNK // 2
    group, channel, exists = block_of_channels(group_dim, CR, CL)
    in_tile = place_in_tile(NR, CR, NL, CL)
    item = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(length, CHUNK)
    n = tl.arange(0, NL)[None, None, :, None] * NR + tl.arange(0, NR)[:, None, None, None]
    out_row, y_row = out + item * length * dim + channel, y + item * length * dim + channel
    in_B = item * b_batch + group * b_group + n
    z_row = z + item * z_batch + channel

    for d in range(0, DIRECTIONS):
        first_t, sign = walk(d, REVERSE, length)
        u_row, delta_row = of(u, d) + item * u_batch + channel, of(delta, d) + item * delta_batch + channel
        b_row, c_row = of(B, d) + in_B, of(C, d) + in_B
        a = load_A(of(A, d) + tl.program_id(0) * TILE + zero + in_tile, LOG_A)
        a = tl.reshape(a * LOG2_E, (NR, CR, NL, CL))
        skip = tl.load(of(D, d) + channel, mask=exists, other=0.0).to(tl.float32) if HAS_D else 0.0
        shift = tl.load(of(bias, d) + channel, mask=exists, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        tile = (d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)
        kept = states + tile * chunks * TILE + zero
        is_last = d == DIRECTIONS - 1
        factor = tl.where(is_last, scale, 1.0)
        x = tl.zeros((NR, CR, NL, CL), tl.float32)
        for chunk in range(0, chunks):
            if KEEP_STATES:
                tl.store(kept + chunk * TILE + in_tile, tl.reshape(x, (NR * CR, NL * CL)))
            us, deltas, befores, zs = (), (), (), ()
            for i in tl.static_range(CHUNK):
                step = chunk * CHUNK + i
                t, here = first_t + sign * tl.minimum(step, length - 1), exists & (step < length)
                us += (tl.load(u_row + t * u_time, mask=here, other=0.0).to(tl.float32),)
                deltas += (load_delta(delta_row + t * delta_time, shift, here, HAS_BIAS, SOFTPLUS),)
                if DIRECTIONS > 1:
                    before = tl.load((y_row if HAS_Z else out_row) + t * dim, mask=here & (d > 0), other=0.0)
                    befores += (before.to(tl.float32),)
                if HAS_Z:
                    zs += (tl.load(z_row + t * z_time, mask=here & is_last, other=0.0).to(tl.float32),)
            # The compiler moves no load across a store, so the stores of half a chunk wait until its end. With the
            # stores at the end of a whole chunk it would load B and C so far ahead that registers run out.
            for half in tl.static_range(2):
                ys = ()
                for i in tl.static_range(half * HALF, half * HALF + HALF):
                    t = first_t + sign * tl.minimum(chunk * CHUNK + i, length - 1)
                    B_t, C_t = load_states(b_row + t * b_time, n < STATES), load_states(c_row + t * b_time, n < STATES)
                    x = tl.exp2(over_states(deltas[i]) * a) * x + over_states(deltas[i] * us[i]) * B_t
                    ys += (sum_states(x * C_t) + skip * us[i],)
                for i in tl.static_range(half * HALF, half * HALF + HALF):
                    step = chunk * CHUNK + i
                    t, here = first_t + sign * tl.minimum(step, length - 1), exists & (step < length)
                    y_t = ys[i - half * HALF] + befores[i] if DIRECTIONS > 1 else ys[i - half * HALF]
                    if HAS_Z:
                        tl.store(y_row + t * dim, y_t, mask=here)
                        tl.store(out_row + t * dim, scale * y_t * zs[i] * tl.sigmoid(zs[i]), mask=here & is_last)
                    else:
                        tl.store(out_row + t * dim, y_t * factor, mask=here)
        tl.debug_barrier()  # the second direction reads what other threads of the program wrote in the first


@triton.jit(do_not_specialize=["zero"])
def scan_backward_kernel(
    grad_out, u, delta, A, B, C, D, bias, z, y, states,
    grad_u, grad_delta, grad_z, grad_BC, grad_A, grad_D, grad_bias,
    length, dim, group_dim, scale,
    grad_batch, grad_time, u_batch, u_time, delta_batch, delta_time, b_batch, b_group, b_time, z_batch, z_time, zero,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, LOG_A: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr, STATES: tl.constexpr, NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """Gradients of one direction per program, from the states before each chunk. A program takes half a chunk at a
    time, whose states fit in registers. No two programs add to the same number: the gradients of B and C are
    (direction, 2, batch, block of channels, length, states), that of A is a tile per direction and item, those of D and
    bias are (direction, batch, dim)."""
    TILE: tl.constexpr = NR * CR * NL * CL
    HALF: tl.constexpr = CHUNK // 2
    group, channel, exists = block_of_channels(group_dim, CR, CL)
    in_tile = place_in_tile(NR, CR, NL, CL)
    item = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, NL)[None, None, :, None] * NR + tl.arange(0, NR)[:, None, None, None]
    n2 = tl.arange(0, NL)[None, :] * NR + tl.arange(0, NR)[:, None]
    dense = item * length * dim + channel  # where the row starts in y and in the gradients
    in_B = item * b_batch + group * b_group + n
    z_row, grad_row = z + item * z_batch + channel, grad_out + item * grad_batch + channel
    log2_e = LOG2_E + zero.to(tl.float32)  # unknown to the compiler, lest it keep decays in registers
    parts = tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * length * STATES

    d = tl.program_id(2)
    first_t, sign = walk(d, REVERSE, length)
    u_row, delta_row = of(u, d) + item * u_batch + channel, of(delta, d) + item * delta_batch + channel
    b_row, c_row = of(B, d) + in_B, of(C, d) + in_B
    own_A = of(A, d) + tl.program_id(0) * TILE + zero
    a = tl.reshape(load_A(own_A + in_tile, LOG_A), (NR, CR, NL, CL))
    skip = tl.load(of(D, d) + channel, mask=exists, other=0.0).to(tl.float32) if HAS_D else 0.0
    shift = tl.load(of(bias, d) + channel, mask=exists, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    tile = (d * tl.num_programs(1) + item) * tl.num_programs(0) + tl.program_id(0)
    kept = states + tile * tl.cdiv(length, CHUNK) * TILE + zero
    part = 2 * d * parts + (item * tl.num_programs(0) + tl.program_id(0)) * length * STATES + n2
    carried = tl.zeros((NR, CR, NL, CL), tl.float32)  # the gradient of the state that comes from later steps
    sum_A = tl.zeros((NR, CR, NL, CL), tl.float32)
    sum_D = tl.zeros((CR, CL), tl.float32)
    sum_bias = tl.zeros((CR, CL), tl.float32)
    halves = tl.cdiv(length, HALF)
    for behind in range(0, halves):
        start = (halves - 1 - behind) * HALF
        x = tl.reshape(tl.load(kept + (start // CHUNK) * TILE + in_tile), (NR, CR, NL, CL))
        if start % CHUNK > 0:
            for i in tl.static_range(HALF):
                t = first_t + sign * (start - HALF + i)
                u_t = tl.load(u_row + t * u_time, mask=exists, other=0.0).to(tl.float32)
                delta_t = load_delta(delta_row + t * delta_time, shift, exists, HAS_BIAS, SOFTPLUS)
                B_t = load_states(b_row + t * b_time, n < STATES)
                x = tl.exp2(over_states(delta_t * LOG2_E) * a) * x + over_states(delta_t * u_t) * B_t
        xs, us, deltas = (x,), (), ()
        for i in tl.static_range(HALF):
            t, here = first_t + sign * tl.minimum(start + i, length - 1), exists & (start + i < length)
            us += (tl.load(u_row + t * u_time, mask=here, other=0.0).to(tl.float32),)
            deltas += (load_delta(delta_row + t * delta_time, shift, here, HAS_BIAS, SOFTPLUS),)
        for i in tl.static_range(HALF):
            t = first_t + sign * tl.minimum(start + i, length - 1)
            B_t = load_states(b_row + t * b_time, n < STATES)
            x = tl.exp2(over_states(deltas[i] * LOG2_E) * a) * x + over_states(deltas[i] * us[i]) * B_t
            xs += (x,)
        for i in tl.static_range(HALF - 1, -1, -1):
            t, here = first_t + sign * tl.minimum(start + i, length - 1), exists & (start + i < length)
            u_t, delta_t, before, x = us[i], deltas[i], xs[i], xs[i + 1]
            grad_y = scale * tl.load(grad_row + t * grad_time, mask=here, other=0.0).to(tl.float32)
            if HAS_Z:
                z_t = tl.load(z_row + t * z_time, mask=here, other=0.0).to(tl.float32)
                gate = tl.sigmoid(z_t)
                once = here & (d == 0)
                y_t = tl.load(y + dense + t * dim, mask=once, other=0.0).to(tl.float32)
                tl.store(grad_z + dense + t * dim, grad_y * y_t * gate * (1.0 + z_t * (1.0 - gate)), mask=once)
                grad_y *= z_t * gate
            B_t, C_t = load_states(b_row + t * b_time, n < STATES), load_states(c_row + t * b_time, n < STATES)
            grad_x = carried + over_states(grad_y) * C_t
            carried = tl.exp2(over_states(delta_t * log2_e) * a) * grad_x
            by_decay = carried * before
            by_B = sum_states(grad_x * B_t)
            grad_delta_t = sum_states(by_decay * a) + by_B * u_t
            if SOFTPLUS:
                raw = tl.load(delta_row + t * delta_time, mask=here, other=0.0).to(tl.float32)
                grad_delta_t *= tl.sigmoid(raw + shift)
            sum_A += by_decay * over_states(delta_t)
            sum_D += grad_y * u_t
            sum_bias += grad_delta_t
            tl.store(of(grad_u, d) + dense + t * dim, by_B * delta_t + skip * grad_y, mask=here)
            tl.store(of(grad_delta, d) + dense + t * dim, grad_delta_t, mask=here)
            known = (n2 < STATES) & (start + i < length)
            tl.store(grad_BC + part + t * STATES, sum_channels(grad_x * over_states(delta_t * u_t)), mask=known)
            tl.store(grad_BC + part + parts + t * STATES, sum_channels(over_states(grad_y) * x), mask=known)
    sum_A = tl.reshape(sum_A, (NR * CR, NL * CL))
    tl.store(grad_A + tile * TILE + zero + in_tile, sum_A * load_A(own_A + in_tile, True) if LOG_A else sum_A)
    of_channel = (d * tl.num_programs(1) + item) * dim + channel
    if HAS_D:
        tl.store(grad_D + of_channel, sum_D, mask=exists)
    if HAS_BIAS:
        tl.store(grad_bias + of_channel, sum_bias, mask=exists)
