"""Autocast for a precision named in the configuration, and the gradient scaler that fp16 needs."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
    """Return the fastest precision for which the device has units.

    bf16 on GPUs from Ampere on and on CPUs with avx512_bf16 or AMX; fp16 on older GPUs; else fp32.
    """
    if device_type == "cuda":
        found = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        capabilities = torch.cpu.get_capabilities()
        found = "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
    logger.info("precision auto: %s", found)
    return found
