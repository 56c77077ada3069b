"""Autocast by its name in the configuration."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

logger = logging.getLogger(__name__)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """fp32: nothing; bf16: matrix products in bfloat16. The scan state, softmax and losses stay in fp32 either way."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device.type) else "fp32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@cache
def has_fast_bf16(device_type: str) -> bool:
    """Whether bf16 products run on units of their own: GPUs from Ampere on, CPUs with avx512_bf16 or AMX."""
    if device_type == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        found = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    logger.info("precision auto: %s", "bf16" if found else "fp32 (no bf16 units here)")
    return found
