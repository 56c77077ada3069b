"""Autocast for a precision named in the configuration, and the gradient scaler that fp16 needs."""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_THE_CASTS = 1.3  # times faster that bf16 products on a CPU must be, since a step casts to and from bf16 as well


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16, fp16: matrix products in that type; fp32: no autocast. Scan state, softmax and losses stay in fp32."""
    if precision == "auto":
        precision = best_precision(device.type)
    return torch.autocast(device.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a scaler that keeps small gradients from vanishing in fp16; other precisions leave them unchanged."""
    chosen = best_precision(device.type) if precision == "auto" else precision
    return torch.amp.GradScaler(device.type, enabled=chosen == "fp16")


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with x here: that of autocast, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def attention_dtype(queries: Tensor) -> torch.dtype:
    """Return the dtype of attention: that of matrix products, but fp32 on a CPU where bf16 would need a gradient.

    PyTorch's bf16 backward pass of attention on a CPU calls oneDNN for small products of each head of each row. Forward
    and backward, bf16 takes 2 to 5 times as long as fp32 with all casts, with or without bf16 units
    (docs/performance.md). The forward pass alone takes as long in either, so it stays in bf16.
    """
    dtype = product_dtype(queries)
    slow = queries.device.type == "cpu" and dtype == torch.bfloat16 and queries.requires_grad
    return torch.float32 if slow else dtype


@cache
def best_precision(device_type: str) -> str:
    """Return the precision in which a step is fastest.

    bf16 on GPUs from Ampere on, fp16 on older ones. On a CPU with bf16 instructions (avx512_bf16 or AMX), bf16 if it is
    worth it in a short measurement: some processors run these instructions at less than the speed of fp32. Else fp32.
    """
    if device_type == "cuda":
        found = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        logger.info("precision auto: %s", found)
        return found
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        logger.info("precision auto: fp32, as this processor has no bf16 instructions")
        return "fp32"
    speedup = bf16_speedup()
    found = "bf16" if speedup >= WORTH_THE_CASTS else "fp32"
    logger.info("precision auto: %s, as bf16 products run at %.1f times the speed of fp32 ones here", found, speedup)
    return found


def bf16_speedup(repeats: int = 7) -> float:
    """Measure how many times faster the CPU computes a product of a training step in bf16 than in fp32.

    Cast weights are at hand, as in a step; the cast of the tokens counts. The fastest of some repeats is taken on both
    sides, in turns, so that other work on the machine hardly matters.
    """
    tokens, weight = torch.ones(2, 768, 384)  # not drawn, as that would change what the run draws
    weights = {dtype: weight.to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(weights, float("inf"))
    with torch.inference_mode():
        for _ in range(1 + repeats):  # libraries prepare themselves in the first turn, which is never the fastest
            for dtype, own in weights.items():
                begin = time.perf_counter()
                F.linear(tokens.to(dtype), own)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - begin)
    return seconds[torch.float32] / seconds[torch.bfloat16]
