"""Weights as the passes of a step use them: joined and cast once in a step, not in every pass.

A layer often multiplies by several matrices that could be one, and under autocast every use of a weight casts it anew.
On a GPU each of these is a launch that takes the host longer than the GPU. Inside `joined_once`, all such tensors of a
network are copied together into one block of memory, side by side and in the dtype of the products, by a single
operator. Their gradients come back by another one.

Elsewhere (evaluation, fp32 on a CPU, sharded parameters) a layer joins its weights when it needs them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

ALIGNMENT = 64  # elements, so that every joined tensor begins at a multiple of 128 bytes
USES = 2  # passes of a step that use one weight, each with an alias of its own: their gradients are added together


class Join(NamedTuple):
    """Parameters side by side in one tensor: their first axes joined, then viewed as shape."""

    parts: tuple[Tensor, ...]
    shape: torch.Size
    is_factor: bool = True  # of matrix products, so in autocast's dtype

    def tensor(self) -> Tensor:
        """Joined now. Gradients flow to the parameters."""
        joined = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)
        return joined.view(self.shape)


def join(*parts: Tensor, stacked: bool = False, is_factor: bool = True) -> Join:
    """Parts of any number, one behind the other along their first axis; stacked: along a new first axis."""
    first = parts[0].shape
    rows = sum(part.shape[0] for part in parts)
    shape = torch.Size((len(parts), *first)) if stacked else torch.Size((rows, *first[1:]))
    return Join(parts, shape, is_factor)


class JoinedModule(nn.Module):
    """A module that computes with joined weights: `self.joined("name")` of what `joins` lists."""

    _copies: dict[str, list[Tensor]] | None = None  # aliases that are left, set by joined_once

    def joins(self) -> dict[str, Join]:
        raise NotImplementedError

    @property
    def has_copies(self) -> bool:
        """Whether it runs inside `joined_once`, in a step where launches count."""
        return self._copies is not None

    def joined(self, name: str) -> Tensor:
        if self._copies is None:
            return self.joins()[name].tensor()
        aliases = self._copies[name]
        return aliases.pop() if len(aliases) > 1 else aliases[0]  # the last one serves all further passes

    def all_joined(self) -> dict[str, Tensor]:
        """Of all names: without copies, this describes the joins once instead of once for each name."""
        if self._copies is not None:
            return {name: self.joined(name) for name in self._copies}
        return {name: joint.tensor() for name, joint in self.joins().items()}


class JoinedLinear(nn.Linear, JoinedModule):
    """A linear layer whose weights are cast once in a step."""

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.weight), "bias": join(self.bias)}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.joined("weight"), self.joined("bias"))


@contextmanager
def joined_once(network: nn.Module, device_type: str) -> Iterator[None]:
    """Inside, the network's modules use joined copies of their weights, which take part in the gradient.

    The copies are worth it where launches are dear or where autocast would cast the weights; elsewhere nothing happens.
    """
    if not _is_worth_it(network, device_type):
        yield
        return
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torch.float32
    modules = [module for module in network.modules() if isinstance(module, JoinedModule)]
    keys = [(module, name, joint) for module in modules for name, joint in module.joins().items()]
    joins = [joint for _, _, joint in keys]
    dtypes = [dtype if joint.is_factor else torch.float32 for joint in joins]
    parts = [part for joint in joins for part in joint.parts]
    aliases = _Copies.apply(_Layout(joins, dtypes), *parts)
    try:
        for number, (module, name, _) in enumerate(keys):
            if module._copies is None:
                module._copies = {}
            module._copies[name] = list(aliases[number :: len(joins)])
        yield
    finally:
        for module in modules:
            module._copies = None


def copies_again(network: nn.Module) -> AbstractContextManager:
    """Inside, the network's modules use the copies that they have now: to compute once more what was not kept.

    Their gradients are those of the first time, so it does not matter which alias is used.
    """
    copies = [
        (module, None if module._copies is None else {name: aliases[:1] for name, aliases in module._copies.items()})
        for module in network.modules()
        if isinstance(module, JoinedModule)
    ]
    return _copies_set(copies)


@contextmanager
def _copies_set(copies: list[tuple[JoinedModule, dict[str, list[Tensor]] | None]]) -> Iterator[None]:
    before = [(module, module._copies) for module, _ in copies]
    try:
        for module, own in copies:
            module._copies = own
        yield
    finally:
        for module, own in before:
            module._copies = own


def _is_worth_it(network: nn.Module, device_type: str) -> bool:
    if any(isinstance(parameter, DTensor) for parameter in network.parameters()):
        return False
    return device_type == "cuda" or torch.is_autocast_enabled(device_type)


class _Layout:
    """Where the joined tensors lie: those of a dtype in one block of memory."""

    def __init__(self, joins: Sequence[Join], dtypes: Sequence[torch.dtype]) -> None:
        self.shapes = [join.shape for join in joins]
        self.dtypes = dtypes
        self.parts_of = [[part.shape for part in join.parts] for join in joins]

    def empty(self, device: torch.device) -> list[Tensor]:
        """The joined tensors, uninitialised."""
        sizes: defaultdict[torch.dtype, int] = defaultdict(int)
        places = []
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            places.append(sizes[dtype])
            sizes[dtype] += -(-shape.numel() // ALIGNMENT) * ALIGNMENT
        blocks = {dtype: torch.empty(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        return [
            blocks[dtype][place : place + shape.numel()].view(shape)
            for place, shape, dtype in zip(places, self.shapes, self.dtypes, strict=True)
        ]

    def split(self, joined: Tensor, number: int) -> list[Tensor]:
        """The parts of the joined tensor of this number, as views shaped like the parameters."""
        shapes = self.parts_of[number]
        pieces = joined.reshape(-1).split([shape.numel() for shape in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


class _Copies(torch.autograd.Function):
    """Parameters -> joined copies, all of them USES times (aliases of one memory)."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        joined = layout.empty(parts[0].device)
        views = [view for number, tensor in enumerate(joined) for view in layout.split(tensor, number)]
        _copy(views, list(parts))
        return tuple(tensor.view_as(tensor) for _ in range(USES) for tensor in joined)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: _Layout = ctx.layout
        totals = _added(grads, len(layout.shapes))
        pieces: list[Tensor | None] = []
        for number, total in enumerate(totals):
            pieces += [None] * len(layout.parts_of[number]) if total is None else layout.split(total, number)
        wanted = [
            (place, piece)
            for place, piece in enumerate(pieces)
            if piece is not None and ctx.needs_input_grad[place + 1]
        ]
        result: list[Tensor | None] = [None] * len(pieces)
        if wanted:
            block = torch.empty(sum(piece.numel() for _, piece in wanted), device=wanted[0][1].device)
            rows = block.split([piece.numel() for _, piece in wanted])
            targets = [row.view(piece.shape) for row, (_, piece) in zip(rows, wanted, strict=True)]
            _copy(targets, [piece for _, piece in wanted])
            for (place, _), target in zip(wanted, targets, strict=True):
                result[place] = target
        return None, *result


def _added(grads: Sequence[Tensor | None], number: int) -> list[Tensor | None]:
    """The sum over the uses of each joined tensor, by one operator; None where no use has a gradient."""
    totals = list(grads[:number])
    places, addends = [], []
    for later in range(number, len(grads), number):
        for place, grad in enumerate(grads[later : later + number]):
            if totals[place] is None:
                totals[place] = grad
            elif grad is not None:
                places.append(place)
                addends.append(grad)
    firsts = [total for place in places if (total := totals[place]) is not None]
    for group in _by_dtype(addends):
        sums = torch._foreach_add([firsts[at] for at in group], [addends[at] for at in group])
        for at, total in zip(group, sums, strict=True):
            totals[places[at]] = total
    return totals


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """One operator for each pair of dtypes: with one pair, a GPU copies many tensors in a launch."""
    groups: defaultdict[tuple[torch.dtype, torch.dtype], list[int]] = defaultdict(list)
    for number, pair in enumerate(zip(targets, sources, strict=True)):
        groups[pair[0].dtype, pair[1].dtype].append(number)
    for group in groups.values():
        torch._foreach_copy_([targets[at] for at in group], [sources[at] for at in group])


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Their numbers, grouped."""
    groups: defaultdict[torch.dtype, list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        groups[tensor.dtype].append(number)
    return list(groups.values())
