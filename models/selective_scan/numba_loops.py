"""The recurrence of numba_scan.py and its gradient as compiled loops; importing this needs numba.

Arrays are dense and float32: u, delta, y (batch, dim, length), A (dim, state), B, C (batch, groups, length, state).
The gradients of B and C are sums per part of the channels, (batch, groups, parts, length, state). That of A has an
entry per batch item.
"""

import math

import numba
import numpy as np
from numba import njit, prange

# Sums may be reordered, so that they can be vectorised. Infinities and NaN keep their meaning.
options = {"parallel": True, "fastmath": {"contract", "reassoc"}, "cache": True}


def set_num_threads(threads: int) -> None:
    """For the next loops, at most as many as numba has."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


@njit(**options)
def scan_forward(u, delta, A, B, C, y, reverse):  # type: ignore[no-untyped-def]
    batch, dim, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    for row in prange(batch * dim):
        item, channel = row // dim, row % dim
        group = channel // (dim // groups)
        x = np.zeros(states, np.float32)
        for step in range(length):
            t = length - 1 - step if reverse else step
            delta_t = delta[item, channel, t]
            delta_u = delta_t * u[item, channel, t]
            total = np.float32(0.0)
            for n in range(states):
                x[n] = math.exp(delta_t * A[channel, n]) * x[n] + delta_u * B[item, group, t, n]
                total += C[item, group, t, n] * x[n]
            y[item, channel, t] = total


@njit(**options)
def scan_backward(grad_y, u, delta, A, B, C, grad_u, grad_delta, grad_A, grad_B, grad_C, reverse):  # type: ignore[no-untyped-def]
    batch, dim, length = u.shape
    groups, parts, states = grad_B.shape[1], grad_B.shape[2], A.shape[1]
    channels = dim // groups
    for task in prange(batch * groups * parts):
        item, group, part = task // (groups * parts), task // parts % groups, task % parts
        first, last = group * channels + channels * part // parts, group * channels + channels * (part + 1) // parts
        xs = np.zeros((length + 1, states), np.float32)  # xs[step] is the state before that step
        decays = np.empty((length, states), np.float32)
        for channel in range(first, last):
            for step in range(length):
                t = length - 1 - step if reverse else step
                delta_t = delta[item, channel, t]
                delta_u = delta_t * u[item, channel, t]
                for n in range(states):
                    decays[step, n] = math.exp(delta_t * A[channel, n])
                    xs[step + 1, n] = decays[step, n] * xs[step, n] + delta_u * B[item, group, t, n]
            carried = np.zeros(states, np.float32)  # gradient of the state, from later steps
            sum_A = np.zeros(states, np.float32)
            for back in range(length):
                step = length - 1 - back
                t = length - 1 - step if reverse else step
                grad_t, u_t, delta_t = grad_y[item, channel, t], u[item, channel, t], delta[item, channel, t]
                by_B, by_A = np.float32(0.0), np.float32(0.0)
                for n in range(states):
                    grad_x = carried[n] + grad_t * C[item, group, t, n]
                    grad_C[item, group, part, t, n] += grad_t * xs[step + 1, n]
                    grad_B[item, group, part, t, n] += grad_x * delta_t * u_t
                    by_B += grad_x * B[item, group, t, n]
                    carried[n] = decays[step, n] * grad_x
                    by_decay = carried[n] * xs[step, n]
                    by_A += by_decay * A[channel, n]
                    sum_A[n] += by_decay * delta_t
                grad_u[item, channel, t] = by_B * delta_t
                grad_delta[item, channel, t] = by_B * u_t + by_A
            for n in range(states):
                grad_A[item, channel, n] = sum_A[n]
