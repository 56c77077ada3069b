"""Training steps and evaluation on pretended tensors of a GPU, on a machine that has none.

A fake tensor knows device, shape and dtype, and no numbers. An operation that mixes devices is an error as it is on a
GPU, and whatever wants to know a number of the device, for which a GPU would have to be waited for, is one as well.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import dataset.texts
from dataset.batches import collate_for_gpu, to_device
from evaluation import token_store
from evaluation.rerank import rerank
from evaluation.token_store import TokenStore
from losses.objective import Curriculum
from models.build import build_momentum_encoder
from models.selective_scan import interface, triton_scan
from tests.helpers.reranking import NUM_IMAGES, random_captions, random_similarity
from tests.helpers.steps import build_learner
from tests.helpers.tiny_models import tiny_model
from training.state import build_state
from training.step import train_step
from utils.precision import autocast

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten


class PretendedGPU(FakeTensorMode):
    """What is on the CPU is real, numbers included; what is or comes on a GPU is fake."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = []  # the operations that brought something from the CPU to the GPU

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        if any(isinstance(each, FakeTensor) or getattr(each, "type", None) == "cuda" for each in given):
            if any(isinstance(each, Tensor) and not isinstance(each, FakeTensor) for each in given):
                self.copied.append(func)
                args = tree_map_only(Tensor, self.from_tensor, args)
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **kwargs or {})

    def __deepcopy__(self, memo):
        return self  # a copied tensor is one of the same GPU


@pytest.fixture
def gpu(monkeypatch):
    """With a pretended GPU, on which the scan runs by its Triton kernels."""
    triton = interface.BACKENDS["triton"]._replace(obstacle=lambda *_: None)
    monkeypatch.setitem(interface.BACKENDS, "triton", triton)
    monkeypatch.setattr(triton_scan, "obstacle", lambda *_: None)
    monkeypatch.setattr(interface, "_CHOSEN", {})
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    with PretendedGPU() as mode:
        yield mode


def on_gpu(module):
    """A copy of a module with its parameters and buffers on the pretended GPU; `to` can only change real tensors."""
    copies = {}
    for tensor in (*module.parameters(), *module.buffers()):
        moved = tensor.detach().to(CUDA)
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(moved, requires_grad=tensor.requires_grad) if is_parameter else moved
    return copy.deepcopy(module, copies)


def test_what_would_wait_for_the_gpu_is_found(gpu):
    x = torch.ones(3).to(CUDA)
    assert x.device.type == "cuda"
    for read in (x.sum().item, x.tolist, x.nonzero, lambda: x[x > 0], lambda: bool(x.any())):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            read()
    with pytest.raises(RuntimeError, match="device"):
        x + torch.ones(3)


def state_of(model, queue, config):
    momentum_encoder = build_momentum_encoder(model, config)
    return build_state(model, momentum_encoder, queue, config, total_steps=9, filled=[])


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # as torch does when it copies one
def test_a_step_but_for_its_backward_pass(debug_config, batch, gpu, monkeypatch):
    config = debug_config("train.precision=bf16")
    learner = build_learner(config)
    objectives, queue = on_gpu(learner.objectives), on_gpu(learner.queue)
    model = objectives.model
    state = state_of(model, queue, config)

    def backward(loss):  # autograd's engine wants a real GPU; test_the_backward_pass_reads_no_number stands in
        assert loss.grad_fn is not None
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(FakeTensor, "backward", backward)
    batch = to_device(collate_for_gpu(batch, parts=1, shares=(1.0,)), CUDA)
    for _ in range(2):
        gpu.copied.clear()
        losses = train_step(state, objectives, batch, Curriculum(0.4), config)
    assert gpu.copied == []
    assert set(interface._CHOSEN.values()) == {"triton"}
    assert losses.keys() == {*objectives.keys, "total"}
    assert all(loss.device == CUDA for loss in losses.values())


class NoNumberRead(TorchDispatchMode):
    """Forbids what a GPU would have to be waited for, on real tensors of the CPU."""

    FORBIDDEN = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in self.FORBIDDEN
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            assert not any(each is not None and each.dtype is torch.bool for each in args[1])
        return func(*args, **kwargs or {})


def test_the_backward_pass_reads_no_number(debug_config, batch, monkeypatch):
    def watched(loss, backward=Tensor.backward):
        with NoNumberRead():
            backward(loss)

    monkeypatch.setattr(Tensor, "backward", watched)
    monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())  # as on a GPU
    config = debug_config("losses.cross_modal_share=0.5")
    model, objectives, _, queue = build_learner(config)
    batch = collate_for_gpu(batch, parts=1, shares=(0.5,))
    losses = train_step(state_of(model, queue, config), objectives, batch, Curriculum(0.4), config)
    assert losses.keys() == {*objectives.keys, "total"}
    with pytest.raises(AssertionError):
        watched(losses["total"], backward=Tensor.item)


@pytest.mark.parametrize("place", ["device", "memory"])
@pytest.mark.parametrize("image", ["vim", "mamba_reg", "vit"])
def test_reranking(image, place, gpu, monkeypatch):
    free = {"cuda": 2**40 if place == "device" else 0, "cpu": 2**40}
    monkeypatch.setattr(token_store, "available_bytes", lambda device: free[device.type])
    monkeypatch.setattr("evaluation.rerank.available_bytes", lambda device: 2**40)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    model = on_gpu(tiny_model(image).eval())
    with torch.no_grad(), autocast(CUDA, "bf16"):
        tokens = model.encode_image(torch.zeros(NUM_IMAGES, 3, 32, 32).to(CUDA))[0].tokens
        store = TokenStore(NUM_IMAGES, CUDA)
        store.append(tokens)
        assert (store.place, store.dtype) == (place, torch.bfloat16)
        rerank(model, store, random_captions(), random_similarity(), top_k=5)
