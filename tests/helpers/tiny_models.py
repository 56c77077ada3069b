"""Models of width 16 and checkpoints of them in published names, for the tests of loading and exporting."""

import torch
from torch import Tensor

from losses import OBJECTIVES
from models.bert_layers import BertSizes
from models.mae_decoder import MAEDecoder
from models.mamba_reg import MambaReg
from models.person_search import PersonSearchModel
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from tests.helpers.heads import add_heads

BERT = BertSizes(
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=24,
    vocab_size=30,
    max_position_embeddings=20,
)
PUBLISHED = {  # our modules -> those of ALBEF, RaSa, MARS and MAMBA-TBPS
    "image_encoder": "visual_encoder",
    "temperature": "temp",
    "decoder.pos_embed": "visual_decoder_pos_embed",
    "decoder.mask_token": "mask_token",
    "decoder.prediction": "decoder_pred",
    "decoder.blocks": "visual_decoder.blocks",
}
PUBLISHED_PARTS = {".to_out.": ".to_out.0.", ".ff.expand.": ".ff.net.0.l.", ".ff.contract.": ".ff.net.2."}


def tiny_model(
    image: str = "vit",
    *,
    image_size: tuple[int, int] = (32, 32),
    width: int = 16,
    full_cross_attention: bool = True,
    tasks: frozenset[str] = frozenset(OBJECTIVES),
    seed: int = 0,
) -> PersonSearchModel:
    """Patches of 8 px, two image layers, fusion at layer 2 of 4; every parameter random."""
    torch.manual_seed(seed)
    sizes = {"image_size": image_size, "patch_size": 8, "width": width, "depth": 2}
    encoder = {
        "vim": lambda: VisionMamba(**sizes, d_state=4),
        "mamba_reg": lambda: MambaReg(**sizes, d_state=4, registers=3, register_reduction=2),
        "vit": lambda: VisionTransformer(**sizes, num_heads=2),
    }[image]()
    text_encoder = TextEncoder(BERT, image_width=width, fusion_layer=2, full_cross_attention=full_cross_attention)
    decoder = MAEDecoder(
        num_patches=encoder.num_patches, patch_size=8, width=width, text_width=16, depth=1, num_heads=2
    )
    model = PersonSearchModel(
        encoder,
        text_encoder,
        embed_dim=8,
        temperature=0.07,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.25, 0.25, 0.25),
    )
    add_heads(model, tasks, decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def published_system(model: PersonSearchModel, *, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The model's weights as the published systems name them, momentum copies, queues and unused tensors included.

    without: beginnings of our names to leave out.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(without):
            continue
        for ours, theirs in PUBLISHED.items():
            if name == ours or name.startswith(f"{ours}."):
                name = theirs + name.removeprefix(ours)
        if name.startswith("visual_decoder."):
            for ours, theirs in PUBLISHED_PARTS.items():
                name = name.replace(ours, theirs)
        tensors[name] = tensor[0] if name == "visual_decoder_pos_embed" else tensor
    copies = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.")
    momentum = {name.replace(".", "_m.", 1): tensor + 1 for name, tensor in tensors.items() if name.startswith(copies)}
    return {
        **tensors,
        **momentum,
        "text_encoder.bert.embeddings.position_ids": torch.arange(20)[None],
        "text_encoder.cls.predictions.decoder.bias": torch.zeros(30),
        "image_queue": torch.randn(8, 12),
        "text_queue": torch.randn(8, 12),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
    }
