"""ONNX graphs of the three networks that a search needs. B batch, L tokens, K image tokens, D their width, E embedding.

    image_encoder.onnx   image (B, 3, H, W) uint8 RGB -> image_tokens (B, K, D), image_embedding (B, E)
    text_encoder.onnx    input_ids, attention_mask (B, L) int64 -> text_embedding (B, E)
    reranker.onnx        input_ids, attention_mask (B, L) int64, image_tokens (B, K, D) -> score (B,)

B and L are free; H and W are the model's. After writing, onnxruntime runs each graph and the result is compared with
PyTorch. The selective scan becomes ONNX's Scan operator: one node per layer and direction, whatever the length.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import models.text_encoder
from models.attention import KeyMask
from models.mamba_mixer import BidirectionalMambaMixer
from models.packing import Packing
from models.person_search import PersonSearchModel
from models.selective_scan.interface import BACKENDS, Backend
from utils.errors import UserError

SCAN_BACKEND = "onnx"
ALLOWED_DEVIATION = 1e-4
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Graph(NamedTuple):
    """One graph to write. free: the free axes of each input, by input name; all other axes are fixed."""

    network: nn.Module
    inputs: dict[str, Tensor]
    free: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


class ImageGraph(nn.Module):
    """uint8 pixels -> tokens and embedding."""

    def __init__(self, model: PersonSearchModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features, embedding = self.model.encode_image(self.model.normalize(image))
        return features.tokens, embedding


class TextGraph(nn.Module):
    def __init__(self, model: PersonSearchModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)[1]


class MatchGraph(nn.Module):
    def __init__(self, model: PersonSearchModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
        return self.model.match(input_ids, attention_mask, image_tokens)


def export_onnx(model: PersonSearchModel, folder: Path) -> dict[str, float]:
    """Write the three graphs; return the largest deviation of each from PyTorch, at other sizes than it was traced at.

    Raises: UserError if a package is missing, or if a graph deviates by more than ALLOWED_DEVIATION.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX export needs the packages {', '.join(NEEDED)}: pip install {' '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    from models.onnx_scan import TRANSLATIONS

    model = model.float().cpu().eval()
    deviations = {}
    for name, graph in _graphs(model, batch=2, length=7).items():
        path = folder / f"{name}.onnx"
        with torch.no_grad(), _exportable(model), _without_chatter():
            program = torch.onnx.export(
                graph.network.eval(),
                kwargs=graph.inputs,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=_dynamic_shapes(graph, model),
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(path)
        deviations[name] = max(
            _deviation(path, _graphs(model, batch, length)[name]) for batch, length in ((1, 3), (3, 12))
        )
        if not deviations[name] <= ALLOWED_DEVIATION:
            raise UserError(f"{path} deviates from PyTorch by {deviations[name]:.1e}, more than {ALLOWED_DEVIATION}")
    return deviations


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Silence the exporter, which reports every folded constant and every axis that two inputs share."""
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")
        yield


class Unpacked(Packing):
    """Texts with their padding. A graph whose shapes depend on the values of the mask cannot be exported."""

    def __init__(self, attention_mask: Tensor, at_most: int | None = None) -> None:
        self.shape = attention_mask.shape
        self.key_mask = KeyMask(attention_mask)
        self.column = torch.arange(self.shape[1]).expand(self.shape).flatten()  # (R*L,)

    def pack(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1)

    def pad(self, packed: Tensor) -> Tensor:
        return packed.unflatten(0, self.shape)


@contextmanager
def _exportable(model: nn.Module) -> Iterator[None]:
    """Keep texts padded, and let every mixer use scan_onnx, a backend that no configuration can name."""
    from models.onnx_scan import scan_onnx

    models.text_encoder.Packing = Unpacked  # type: ignore[misc]
    mixers = [module for module in model.modules() if isinstance(module, BidirectionalMambaMixer)]
    before = [mixer.scan_backend for mixer in mixers]
    BACKENDS[SCAN_BACKEND] = Backend(scan_onnx, lambda device_type, dtype, state: None)
    for mixer in mixers:
        mixer.scan_backend = SCAN_BACKEND
    try:
        yield
    finally:
        models.text_encoder.Packing = Packing  # type: ignore[misc]
        del BACKENDS[SCAN_BACKEND]
        for mixer, name in zip(mixers, before, strict=True):
            mixer.scan_backend = name


def _graphs(model: PersonSearchModel, batch: int, length: int) -> dict[str, Graph]:
    """Make the graphs with example inputs. The last caption of a batch is one token shorter than the others."""
    generator = torch.Generator().manual_seed(batch * length)
    encoder, sizes = model.image_encoder, model.text_encoder.sizes
    height, width = (side * encoder.patch_size for side in encoder.grid)
    image = torch.randint(256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, -1] = 0
    text = {
        "input_ids": torch.randint(sizes.vocab_size, (batch, length), generator=generator),
        "attention_mask": mask,
    }
    tokens = torch.randn(batch, encoder.num_tokens, encoder.width, generator=generator)
    of_text = {name: {0: "batch", 1: "length"} for name in text}
    return {
        "image_encoder": Graph(
            ImageGraph(model), {"image": image}, {"image": {0: "batch"}}, ("image_tokens", "image_embedding")
        ),
        "text_encoder": Graph(TextGraph(model), text, of_text, ("text_embedding",)),
        "reranker": Graph(
            MatchGraph(model), {**text, "image_tokens": tokens}, {**of_text, "image_tokens": {0: "batch"}}, ("score",)
        ),
    }


def _dynamic_shapes(graph: Graph, model: PersonSearchModel) -> dict[str, dict[int, torch.export.Dim]]:
    longest = model.text_encoder.sizes.max_position_embeddings
    dims = {"batch": torch.export.Dim("batch"), "length": torch.export.Dim("length", max=longest)}
    return {name: {axis: dims[label] for axis, label in axes.items()} for name, axes in graph.free.items()}


@torch.no_grad()
def _deviation(path: Path, graph: Graph) -> float:
    """Return the largest difference between the outputs of onnxruntime and of PyTorch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in graph.inputs.items()})
    expected = graph.network(**graph.inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max((torch.from_numpy(a) - b).abs().max().item() for a, b in zip(found, expected, strict=True))
