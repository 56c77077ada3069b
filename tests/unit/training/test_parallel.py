"""What steps exchange between processes, in a group of one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from training.parallel import average_gradients
from utils import distributed
from utils.distributed import finish


@pytest.fixture(autouse=True)
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.shutdown()


def averaged_gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    model(x).sum().backward()
    finish(average_gradients(model))
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradients_of_all_steps_lie_in_one_tensor():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    memory = set()
    for factor in (1.0, 2.0, 3.0):
        found = averaged_gradients(model, torch.full((5, 3), factor))
        assert torch.equal(found["weight"], torch.full((2, 3), 5 * factor))
        assert torch.equal(found["bias"], torch.full((2,), 5.0))
        memory |= {gradient.untyped_storage().data_ptr() for gradient in found.values()}
        assert len(memory) == 1
    assert averaged_gradients(other, torch.ones(1, 3))["bias"].untyped_storage().data_ptr() not in memory


def test_a_gradient_less_needs_another_tensor():
    model = nn.Linear(3, 2)
    averaged_gradients(model, torch.ones(1, 3))
    model.bias.requires_grad_(False)
    found = averaged_gradients(model, torch.full((1, 3), 4.0))
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], torch.full((2, 3), 4.0))
