"""One model on several processes, and in less memory: DDP, FSDP2, activation checkpointing, compiled layers.

All of it happens to a finished model from outside; its parameters keep their names, so checkpoints are the same
whatever is chosen here. A layer is an element of a ModuleList or Sequential that is repeated: a block of the image
encoder, a layer of BERT, a block of the decoder.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from models.joined_weights import ALIGNMENT, copies_again
from training.objectives import Objectives
from utils.config import Config
from utils.distributed import Exchanging, Process, averaged
from utils.errors import UserError

_FLAT_GRADIENTS: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()  # by what is trained


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The repeated layers with parameters, in the order of the modules; none lies within another."""
    if isinstance(module, nn.ModuleList | nn.Sequential):
        return [layer for layer in module if any(True for _ in layer.parameters())]
    return [layer for child in module.children() for layer in layers_of(child)]


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the inputs of each layer for the backward pass and compute the rest again: same gradients, less memory.

    To be called after the momentum copies were made: they would compute with this model's layers.
    """
    for layer in layers_of(model):
        layer.forward = functools.partial(_checkpointed, layer, layer.forward)  # type: ignore[method-assign]


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    again = copies_again(layer)  # by the backward pass, when the weights' copies are no longer in use elsewhere
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


def shard(model: nn.Module, momentum_encoder: nn.Module, process: Process) -> None:
    """Share out the parameters of every layer over the processes (FSDP2); each is gathered while it computes.

    What is outside the layers (embeddings, projections, heads: a small part) stays whole on every process. The momentum
    copies are cut alike, so that each process moves its own share of them.

    Raises: UserError if there is one process only.
    """
    if process.world_size == 1:
        raise UserError("train.sharding: fsdp shares parameters between processes, but there is one; use torchrun")
    mesh: DeviceMesh = init_device_mesh(process.device.type, (process.world_size,))
    for layer in layers_of(model) + layers_of(momentum_encoder):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # momentum copies have no backward pass to do it


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def mixed_parameters(module: nn.Module) -> AbstractContextManager:
    """Where sharded and whole parameters go into one call: clipping, the optimiser, the momentum update."""
    return implicit_replication() if is_sharded(module) else nullcontext()


@contextmanager
def whole_layers(module: nn.Module) -> Iterator[None]:
    """Inside, every process holds all of the layers: evaluation gives the processes unequal numbers of batches."""
    layers = [layer for layer in module.modules() if isinstance(layer, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    yield
    for layer in layers:
        layer.reshard()
        layer.set_reshard_after_forward(True)


def shard_like(content: Any, target: Any) -> Any:
    """A state dict of whole tensors, cut as the module or optimiser it will be loaded into is cut."""
    if isinstance(target, torch.optim.Optimizer):
        parameters = [parameter for group in target.param_groups for parameter in group["params"]]
        moments = {
            number: {name: _cut(value, parameters[number]) if value.ndim else value for name, value in moments.items()}
            for number, moments in content["state"].items()
        }
        return {**content, "state": moments}
    if isinstance(target, nn.Module):
        own = target.state_dict()
        return {name: _cut(value, own[name]) if name in own else value for name, value in content.items()}
    return content


def _cut(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def compile_layers(*networks: nn.Module) -> None:
    """Compile each layer when it is first called; one of a kind is compiled, the others share it."""
    for network in networks:
        for layer in layers_of(network):
            layer.compile()


def spread(
    objectives: Objectives, momentum_encoder: nn.Module, config: Config, process: Process, *, graphed: bool = False
) -> nn.Module:
    """Set the model and its momentum copies up as `train` in the configuration asks.

    Args: graphed: the steps will be CUDA graphs.
    Returns: the objectives as training calls them, in DDP where several processes run steps eagerly.
    """
    model = objectives.model
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if config.train.compile:
        compile_layers(model, momentum_encoder)
    if config.train.sharding == "fsdp":
        shard(model, momentum_encoder, process)
    return same_start(objectives) if graphed else wrap(objectives, process)


def unwrapped(online: nn.Module) -> Objectives:
    """The objectives, out of DDP."""
    inner = online.module if isinstance(online, DistributedDataParallel) else online
    assert isinstance(inner, Objectives)
    return inner


def wrap(model: nn.Module, process: Process) -> nn.Module:
    """With several processes, DDP averages the gradients of what is not sharded.

    Every parameter in training has to get a gradient (`training.objectives.unreached_parts`). DDP could look for
    those that do not, but that walks through the whole graph in every step.
    """
    if process.world_size == 1:
        return model
    sharded = [name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, sharded)
    devices = [process.local_rank] if process.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=False)


def same_start(model: nn.Module) -> nn.Module:
    """All processes take the weights of the first, as they do in DDP."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
    return model


def average_gradients(online: nn.Module) -> Exchanging[None]:
    """Average the gradients over the processes, unless DDP did it in the backward pass.

    A graph of a backward pass has no place for DDP's exchanges. They take turns with it instead, all in one: what DDP
    gains by overlapping the two is little beside the launches that graphs save.
    """
    if not dist.is_initialized() or isinstance(online, DistributedDataParallel):
        return
    trained = [parameter for parameter in online.parameters() if parameter.grad is not None]
    trained.sort(key=lambda parameter: parameter.numel() % ALIGNMENT > 0)  # the others keep the optimiser's alignment
    gradients = [parameter.grad.flatten() for parameter in trained if parameter.grad is not None]
    flat = _flat_gradients(online, sum(map(len, gradients)), like=gradients[0])
    torch.cat(gradients, out=flat)
    yield from averaged(flat)
    for parameter, own in zip(trained, flat.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = own.view_as(parameter)


def _flat_gradients(online: nn.Module, length: int, *, like: Tensor) -> Tensor:
    """The tensor in which a model's gradients are exchanged, (length,), the same in each step.

    It comes from the first step, which is no graph. With a tensor of its own, each graph would keep one for good.
    """
    flat = _FLAT_GRADIENTS.get(online)
    if flat is None or len(flat) != length:
        flat = _FLAT_GRADIENTS[online] = like.new_empty(length)
    return flat


def averaging(online: nn.Module, *, now: bool) -> AbstractContextManager:
    """now=False: backward passes inside add to the gradients of this process alone, to be averaged with the next."""
    return online.no_sync() if not now and isinstance(online, DistributedDataParallel) else nullcontext()
