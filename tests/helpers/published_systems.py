"""Models of the published systems' sizes, filled from a checkpoint file in the published names."""

from pathlib import Path

import torch
from torch import Tensor

from models.bert_layers import BertSizes
from models.mae_decoder import MAEDecoder
from models.person_search import PersonSearchModel
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from tests.helpers.heads import add_heads

CLIP = {"pixel_mean": (0.48145466, 0.4578275, 0.40821073), "pixel_std": (0.26862954, 0.26130258, 0.27577711)}


def build_system(description: dict, image: str, tasks: frozenset[str] = frozenset({"itc", "itm"})) -> PersonSearchModel:
    """image: "vit" (RaSa, MARS) or "vim" (MAMBA-TBPS); full cross-attention as the case has it."""
    config, bert = description["config"], description["bert_config"]
    sizes = {"image_size": (config["image_res"],) * 2, "width": config["vision_width"], "depth": config["vis_depth"]}
    encoder = VisionMamba(**sizes) if image == "vim" else VisionTransformer(**sizes, num_heads=config["vis_heads"])
    text_encoder = TextEncoder(
        BertSizes(**{name: bert[name] for name in BertSizes.__dataclass_fields__ if name in bert}),
        image_width=bert["encoder_width"],
        fusion_layer=bert["fusion_layer"],
        full_cross_attention=bert.get("full_ca", False),
    )
    decoder = MAEDecoder(
        num_patches=encoder.num_patches,
        patch_size=encoder.patch_size,
        width=encoder.width,
        text_width=text_encoder.width,
        depth=config["dec_depth"],
        num_heads=config["dec_heads"],
        head_dim=config["dec_dhead"],
    )
    model = PersonSearchModel(encoder, text_encoder, embed_dim=config["embed_dim"], temperature=0.2, **CLIP)
    add_heads(model, tasks, decoder)
    return model.eval()


def save_published(weights: dict[str, Tensor], path: Path) -> Path:
    """As the published programs save: the tensors under "model", and what else they put beside them."""
    torch.save({"model": weights, "optimizer": {"state": {}}, "config": {"embed_dim": 24}, "epoch": 29}, path)
    return path
