"""An index, its model and its engine, as values for JSON."""

from typing import Any

import torch

from gallery.search.live import View
from utils.config import Config


def describe(view: View, config: Config, device: torch.device) -> dict[str, Any]:
    manifest = view.store.manifest
    image, text = config.model.image_encoder, config.model.text_encoder
    image_name = image.name or f"{image.kind}, width {image.embed_dim}, {image.depth} layers"
    rerank_top_k = config.eval.rerank_top_k
    return {
        "images": len(view.store),
        "root": manifest.root,
        "model": f"{image_name}; {text.name}",
        "checkpoint": manifest.checkpoint.path,
        "checkpoint_sha256": manifest.checkpoint.sha256,
        "image_size": list(config.dataset.image_size),
        "embedding_width": manifest.width,
        "second_stage": f"the matching head orders the first {rerank_top_k}"
        if rerank_top_k
        else "none: eval.rerank_top_k is 0, so that exact gives the order of fast",
        "image_tokens": "kept" if manifest.token_shape else "not kept",
        "calibrated": view.calibration is not None,
        "engine": manifest.engine or "faiss",
        "device": str(device),
    }
