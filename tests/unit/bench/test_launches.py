"""bench.launches: kernels by name, counted in one step."""

import pytest
import torch

from bench.launches import Kind, Profile, profiled, short, show

COPY = "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<{}(at::TensorIteratorBase&)>>"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (COPY.format("at::native::direct_copy_kernel_cuda"), "elementwise_kernel direct_copy_kernel_cuda"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, x>(int)", None),
        ("void at::native::(anonymous namespace)::layer_norm_kernel<float, float>(int, float)", "layer_norm_kernel"),
        ("_scan_forward_kernel", "_scan_forward_kernel"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD"),
        ("aten::addmm", "addmm"),
    ],
)
def test_short_names(name, shown):
    assert short(name) == (shown or "vectorized_elementwise_kernel CUDAFunctor_add")


def test_operators_of_a_step_on_a_cpu():
    x = torch.ones(8, 8)
    found = profiled(lambda: (x @ x).exp().exp(), torch.device("cpu"))
    launches = {kind.name: kind.launches for kind in found.kinds}
    assert (launches["mm"], launches["exp"]) == (1, 2)
    assert found.launches == sum(launches.values())
    assert 0 < found.host <= found.step


def test_what_is_not_shown_is_added_up(capsys, monkeypatch):
    monkeypatch.setattr("bench.launches.SHOWN", 1)
    show(Profile([Kind("a", 10, 6.0), Kind("b", 20, 3.0), Kind("c", 5, 1.0)], host=20.0, step=21.0), "a step")
    out = capsys.readouterr().out
    assert "a step: step 21.0 ms, host 20.0 ms, busy 10.0 ms, 35 launches" in out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert rows[2:] == [["a", "10", "6.00", "60.0%"], ["the others", "25", "4.00", "40.0%"]]
