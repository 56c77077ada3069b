"""What the Triton kernels of the scan share: how a tile lies over the threads of a warp, and sums across threads.

A program is one warp with a block of channels of one batch item. Its state is a tile (NR, CR, NL, CL): state number
n = nl * NR + nr, channel = cr * CL + cl. Triton distributes the threads of a warp from the last axis on. With
NL * CL = 32, the axes NR and CR therefore lie in each thread's registers: a step needs no shared memory. In memory a
tile is (states, channels). The argument "zero" is 0. It hides from the compiler that tiles are aligned; otherwise the
compiler would give several neighbours to a thread, load them at once, and lay out the whole tile that way. It is added
to the pointer, not to the offsets in the tile: these stay constants, which take no registers.

NL threads share a channel. What does not depend on the state is computed by one of them where CR = NL: a tensor (1, 1,
CR, CL) holds the channel cr * CL + cl in the thread (nl = cr, cl). Where CR = 1, all threads of a channel hold it.
`expand` and `sum_states` lead from one form to the other.
"""

# mypy: ignore-errors
# (in a kernel a tuple grows and names are Triton values)

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TOUCHES = tl.constexpr(8)  # numbers of a step that `touch` loads


@triton.jit
def softplus(x, SLOPE: tl.constexpr):
    """log(1 + exp(x)), relative error 3e-7, and if SLOPE its derivative, else 0."""
    e = tl.exp(-tl.abs(x))
    # log(1 + e) / e on [0, 1]: Chebyshev fit, relative error 2e-7; a logarithm would lose all digits for small e
    p = 0.005253457929939032 * e - 0.02958850748836994
    p = p * e + 0.07836166769266129
    p = p * e - 0.13674770295619965
    p = p * e + 0.19111430644989014
    p = p * e - 0.24844369292259216
    p = p * e + 0.33319270610809326
    p = p * e - 0.49999502301216125
    return tl.maximum(x, 0.0) + (p * e + 1.0) * e, tl.where(x >= 0, 1.0, e) / (1.0 + e) if SLOPE else 0.0


@triton.jit
def step_size(raw, bias, SOFTPLUS: tl.constexpr, SLOPE: tl.constexpr):
    """(delta, and if SLOPE its derivative by `raw`)."""
    delta = raw.to(tl.float32) + bias
    if SOFTPLUS:
        delta, slope = softplus(delta, SLOPE)
        return delta, slope
    else:
        return delta, 1.0


@triton.jit
def load_steps(pointer, stride, mask, STEPS: tl.constexpr):
    """A row of each of STEPS steps, as it lies in memory."""
    rows = ()
    for i in tl.static_range(STEPS):
        rows += (tl.load(pointer + i * stride, mask=mask, other=0.0),)
    return rows


@triton.jit
def load_or_zero(pointer, mask, EXISTS: tl.constexpr):
    """A parameter in float32."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32) if EXISTS else 0.0


@triton.jit
def gated(grad_out, z, scale, HAS_Z: tl.constexpr):
    """(gradient of y, the factor that makes z's gradient of y), from the output's gradient and z."""
    grad = scale * grad_out.to(tl.float32)
    if HAS_Z:
        z = z.to(tl.float32)
        gate = tl.sigmoid(z)
        return grad * z * gate, grad * gate * (1.0 + z * (1.0 - gate))
    else:
        return grad, 0.0


@triton.jit
def block_of_channels(group_dim, CR: tl.constexpr, CL: tl.constexpr):
    """(group, first channel of the program, channels (1, 1, CR, CL) from there on, which of them exist)."""
    blocks = tl.cdiv(group_dim, CR * CL)
    group = tl.program_id(0) // blocks
    within = (tl.program_id(0) % blocks) * CR * CL
    channel = tl.arange(0, CR)[None, None, :, None] * CL + tl.arange(0, CL)[None, None, None, :]
    return group, group * group_dim + within, channel, channel < group_dim - within


@triton.jit
def states_of_thread(NR: tl.constexpr, NL: tl.constexpr):
    """Numbers of the states of a tile: (NR, 1, NL, 1)."""
    return tl.arange(0, NL)[None, None, :, None] * NR + tl.arange(0, NR)[:, None, None, None]


@triton.jit
def place_in_tile(NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr):
    """(number of the state, number of the channel) of a tile's numbers: (rows, lanes) = (NR * CR, NL * CL)."""
    row, lane = tl.arange(0, NR * CR)[:, None], tl.arange(0, NL * CL)[None, :]
    return (lane // CL) * NR + row // CR, (row % CR) * CL + lane % CL


@triton.jit
def load_A(
    pointer, first, channels, zero, LOG_A: tl.constexpr, STATES: tl.constexpr,
    NR: tl.constexpr, CR: tl.constexpr, NL: tl.constexpr, CL: tl.constexpr,
):  # fmt: skip
    """A (dim, states) of a program's channels, in (rows, lanes); 0 where there is no such state or channel."""
    n, channel = place_in_tile(NR, CR, NL, CL)
    exists = (n < STATES) & (channel < channels)
    a = tl.load(pointer + (first + channel) * STATES + n * (zero + 1), mask=exists, other=0.0)
    return tl.where(exists, -tl.exp(a), 0.0) if LOG_A else a


@triton.jit
def load_states(pointer, STATES: tl.constexpr, NR: tl.constexpr, NL: tl.constexpr):
    """B or C of one step, float32 (NR, 1, NL, 1)."""
    if pointer.dtype.element_ty == tl.bfloat16 and NR * NL == STATES and NR > 1:
        # two instructions per pair of bfloat16 instead of three
        n = tl.arange(0, NL)[None, None, :, None] * (NR // 2) + tl.arange(0, NR // 2)[:, None, None, None]
        pair = tl.load(pointer.to(tl.pointer_type(tl.int32), bitcast=True) + n)
        both = tl.join((pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True))
        return tl.reshape(tl.permute(both, (0, 4, 1, 2, 3)), (NR, 1, NL, 1))
    else:
        n = states_of_thread(NR, NL)
        return tl.load(pointer + n, mask=n < STATES, other=0.0).to(tl.float32)


@triton.jit
def swap(x, AXIS: tl.constexpr):
    """Along an axis of two, each gets what the other has. It compiles to one shuffle."""
    bits = x.to(tl.int32, bitcast=True)
    return (tl.sum(bits, AXIS, keep_dims=True) - bits).to(tl.float32, bitcast=True)


@triton.jit
def expand(x, CR: tl.constexpr):
    """(1, 1, CR, CL) -> (1, CR, CR or 1, CL): every thread of a channel gets what one holds."""
    if CR == 1:
        return x
    else:
        own = tl.arange(0, 2)[None, :, None, None] == tl.arange(0, 2)[None, None, :, None]
        return tl.where(own, x, swap(x, 2))


@triton.jit
def sum_states(x, CR: tl.constexpr):
    """(NR, CR, NL, CL) -> (1, 1, CR, CL)."""
    x = tl.sum(x, 0, keep_dims=True)
    if CR == 1:
        return tl.sum(x, 2, keep_dims=True)
    else:
        own = tl.arange(0, 2)[None, :, None, None] == tl.arange(0, 2)[None, None, :, None]
        kept = tl.sum(tl.where(own, x, 0.0), 1, keep_dims=True)
        return kept + swap(tl.sum(tl.where(own, 0.0, x), 1, keep_dims=True), 2)


@triton.jit
def exchange(first, second, BIT: tl.constexpr):
    """Half of the sums over pairs of threads, whose numbers in the last axis differ by one bit: (NR, NL, CL) twice ->
    (NR, NL, CL). The thread without the bit gets the sum of `first`, the other that of `second`: one shuffle and one
    addition instead of two each."""
    NR: tl.constexpr = first.shape[0]
    NL: tl.constexpr = first.shape[1]
    CL: tl.constexpr = first.shape[2]
    first = tl.reshape(first, (NR, NL, CL >> (BIT + 1), 2, 1 << BIT))
    second = tl.reshape(second, (NR, NL, CL >> (BIT + 1), 2, 1 << BIT))
    without = tl.arange(0, 2)[None, None, None, :, None] == 0
    return tl.reshape(tl.where(without, first, second) + swap(tl.where(without, second, first), 3), (NR, NL, CL))


@triton.jit
def touch(B, C, stride, STEPS: tl.constexpr, STATES: tl.constexpr):
    """Start fetching B and C of STEPS steps into the first cache: some of their numbers, one or more of each 32 bytes.
    `hold` them later."""
    i = tl.arange(0, STEPS * TOUCHES)
    of_step = (i % (TOUCHES // 2)) * STATES // (TOUCHES // 2) + i // TOUCHES * stride
    return tl.load(tl.where(i % TOUCHES < TOUCHES // 2, B, C) + of_step)


@triton.jit
def hold(touched, pointer, zero):
    """Keep the compiler from dropping what `touch` loads: a store that never takes place."""
    tl.store(pointer + tl.arange(0, touched.shape[0]), touched, mask=zero > 0)
