"""Kernels of the fused operators where `use_kernels` would not take them: in the interpreter and when compiling."""

import pytest

from models.fused import operators


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators launch their kernels, whatever the device."""
    monkeypatch.setattr(operators, "use_kernels", lambda name, device_type: True)
