"""Triton kernels of the depthwise convolution with SiLU in front of the scan, for both directions at once.

x (batch, length, dim) with channel stride 1; weight (2, dim, K) and bias (2, dim), an entry per direction. Direction 0
looks at a position and the K - 1 before it, direction 1 at the K - 1 behind it, each with the last weight at the
position itself.
"""

# mypy: ignore-errors
# (in a kernel a tuple grows and names are Triton values)

import triton
import triton.language as tl


@triton.jit
def load_row(row, t, length, stride, exists):
    """Position t of a sequence as float32, zeros where there is none."""
    return tl.load(row + t * stride, mask=exists & (t >= 0) & (t < length), other=0.0).to(tl.float32)


@triton.jit
def silu_slope(x):
    gate = tl.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


@triton.jit
def conv_forward_kernel(
    x, weight, bias, u, length, dim, x_batch, x_time, K: tl.constexpr, TIMES: tl.constexpr, CHANNELS: tl.constexpr
):
    """u (2, batch, length, dim), TIMES positions per program; all values are loaded before the first is stored."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(1) * TIMES
    item = tl.program_id(2).to(tl.int64)
    exists = channel < dim
    row, out = x + item * x_batch + channel, u + item * length * dim + channel
    other = tl.num_programs(2).to(tl.int64) * length * dim  # from one direction to the other
    xs, w_0, w_1 = (), (), ()
    for i in tl.static_range(TIMES + 2 * (K - 1)):  # x[first - (K - 1)] and on
        xs += (load_row(row, first + i - (K - 1), length, x_time, exists),)
    for k in tl.static_range(K):
        w_0 += (tl.load(weight + channel * K + k, mask=exists, other=0.0),)
        w_1 += (tl.load(weight + (dim + channel) * K + k, mask=exists, other=0.0),)
    shift_0 = tl.load(bias + channel, mask=exists, other=0.0)
    shift_1 = tl.load(bias + dim + channel, mask=exists, other=0.0)
    for i in tl.static_range(TIMES):
        before, behind = shift_0, shift_1
        for k in tl.static_range(K):
            before += w_0[k] * xs[i + k]
            behind += w_1[k] * xs[i + 2 * (K - 1) - k]
        here = exists & (first + i < length)
        tl.store(out + (first + i) * dim, before * tl.sigmoid(before), mask=here)
        tl.store(out + other + (first + i) * dim, behind * tl.sigmoid(behind), mask=here)


@triton.jit
def conv_backward_kernel(
    grad_u, x, weight, bias, grad_x, parts,
    length, dim, x_batch, x_time, grad_x_batch, grad_x_time,
    K: tl.constexpr, TIMES: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of TIMES positions per program, walking through them with the last K values in registers.

    It loads the values of STEPS positions at once: no load is moved across a store, and each would be waited for.

    grad_u is (2, batch, length, dim). A row of parts is a program's own share: of weight (2, dim, K), then of bias
    (2, dim).
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(1) * TIMES
    item = tl.program_id(2).to(tl.int64)
    exists = channel < dim
    x_row, grad_row = x + item * x_batch + channel, grad_u + item * length * dim + channel
    other = tl.num_programs(2).to(tl.int64) * length * dim  # from one direction to the other
    zero = tl.zeros((CHANNELS,), tl.float32)
    shift_0 = tl.load(bias + channel, mask=exists, other=0.0)
    shift_1 = tl.load(bias + dim + channel, mask=exists, other=0.0)
    w_0, w_1, sums_0, sums_1, xs, before, behind = (), (), (), (), (), (), ()
    for k in tl.static_range(K):
        w_0 += (tl.load(weight + channel * K + k, mask=exists, other=0.0),)
        w_1 += (tl.load(weight + (dim + channel) * K + k, mask=exists, other=0.0),)
        sums_0 += (zero,)
        sums_1 += (zero,)
        before += (zero,)
        behind += (zero,)
        xs += (load_row(x_row, first - K + k, length, x_time, exists),)
    sum_bias_0, sum_bias_1 = zero, zero

    for block in range(0, (TIMES + K - 1 + STEPS - 1) // STEPS):
        new_xs, grads_0, grads_1 = (), (), ()
        for i in tl.static_range(STEPS):
            t = first + block * STEPS + i - (K - 1)
            new_xs += (load_row(x_row, t + K - 1, length, x_time, exists),)
            grads_0 += (load_row(grad_row, t + K - 1, length, dim, exists),)
            grads_1 += (load_row(grad_row + other, t, length, dim, exists),)
        for i in tl.static_range(STEPS):
            step = block * STEPS + i
            t = first + step - (K - 1)  # xs: x[t .. t+K-1], before: gradients at t .. t+K-1, behind: at t-K+1 .. t
            last_xs, last_before, last_behind = xs, before, behind
            xs, before, behind = (), (), ()
            for k in tl.static_range(K - 1):
                xs += (last_xs[k + 1],)
                before += (last_before[k + 1],)
                behind += (last_behind[k + 1],)
            xs += (new_xs[i],)
            sum_0, sum_1 = shift_0, shift_1
            for k in tl.static_range(K):
                sum_0 += w_0[k] * xs[k]
                sum_1 += w_1[k] * xs[K - 1 - k]
            grad_0, grad_1 = grads_0[i] * silu_slope(sum_0), grads_1[i] * silu_slope(sum_1)
            before += (grad_0,)
            behind += (grad_1,)
            is_here = (step >= K - 1) & (step < TIMES + K - 1)
            own_0 = tl.where(step < TIMES, grad_0, 0.0)  # each position counts in the sums of one program alone
            own_1 = tl.where(is_here, grad_1, 0.0)
            grad_t = zero
            added_0, added_1 = (), ()
            for k in tl.static_range(K):
                grad_t += w_0[k] * before[K - 1 - k] + w_1[k] * behind[k]
                added_0 += (sums_0[k] + own_0 * xs[k],)
                added_1 += (sums_1[k] + own_1 * xs[K - 1 - k],)
            sums_0, sums_1 = added_0, added_1
            sum_bias_0 += own_0
            sum_bias_1 += own_1
            row = grad_x + item * grad_x_batch + t * grad_x_time
            tl.store(row + channel, grad_t, mask=exists & is_here & (t < length))

    part = parts + (item * tl.num_programs(1) + tl.program_id(1)) * (2 * dim * (K + 1))
    for k in tl.static_range(K):
        tl.store(part + channel * K + k, sums_0[k], mask=exists)
        tl.store(part + (dim + channel) * K + k, sums_1[k], mask=exists)
    tl.store(part + 2 * dim * K + channel, sum_bias_0, mask=exists)
    tl.store(part + 2 * dim * K + dim + channel, sum_bias_1, mask=exists)
