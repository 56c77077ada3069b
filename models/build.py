"""Build the model from a configuration."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import nn

from models.bert_layers import BertSizes
from models.image_features import ImageEncoder
from models.mae_decoder import MAEDecoder
from models.mamba_reg import MambaReg
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.config_schema import Config, ImageEncoderConfig, TextEncoderConfig
from utils.errors import UserError
from utils.pretrained import bert_config

NORMALIZATIONS = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
HeadBuilder = Callable[[int, MAEDecoder], Mapping[str, nn.Module]]
IMAGE_ENCODERS: dict[str, Callable[..., Any]] = {  # by type
    "vim": VisionMamba,
    "mamba_reg": MambaReg,
    "vit": VisionTransformer,
}
NAMED_ENCODERS = {
    "vim_tiny": {"embed_dim": 192, "depth": 24},
    "vim_small": {"embed_dim": 384, "depth": 24},
    "vim_base": {"embed_dim": 768, "depth": 24},
    "mamba_reg_tiny": {"embed_dim": 192, "depth": 24, "registers": 12},
    "mamba_reg_small": {"embed_dim": 384, "depth": 24, "registers": 12, "register_reduction": 2},
    "mamba_reg_base": {"embed_dim": 768, "depth": 24, "registers": 12, "register_reduction": 4},
    "mamba_reg_large": {"embed_dim": 1024, "depth": 48, "registers": 16, "register_reduction": 8},
    "vit_base_patch16": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
SIZES = ("embed_dim", "depth", "num_heads", "registers", "register_reduction")  # keys that override a name's sizes


class Parts(NamedTuple):
    """The networks that a model is made of."""

    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    decoder: MAEDecoder


def no_heads(text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
    """Of a model that is not to be trained."""
    return {}


def build_model(config: Config, heads: HeadBuilder = no_heads) -> PersonSearchModel:
    """The online model of a configuration, randomly initialised.

    heads: makes the heads of the training objectives from the width of the text encoder and the MAE decoder. Without
        them the model does for search.
    """
    sizes = model_sizes(config)
    parts = model_parts(sizes.pop("image_encoder"), sizes.pop("text_encoder"), sizes.pop("decoder"))
    model = PersonSearchModel(parts.image_encoder, parts.text_encoder, **sizes)
    model.add_heads(heads(parts.text_encoder.width, parts.decoder))
    return model


def model_sizes(config: Config) -> dict[str, Any]:
    """Every size of a model in plain values that fit into JSON, with names of models already resolved."""
    mean, std = NORMALIZATIONS[config.model.image_encoder.normalization]
    return {
        "image_encoder": _image_encoder_sizes(config.model.image_encoder, config.dataset.image_size),
        "text_encoder": _text_encoder_sizes(config.model.text_encoder),
        "decoder": {"depth": config.model.decoder.depth, "num_heads": config.model.decoder.num_heads},
        "embed_dim": config.model.embed_dim,
        "temperature": config.model.temperature,
        "pixel_mean": list(mean),
        "pixel_std": list(std),
    }


def model_parts(image_encoder: dict[str, Any], text_encoder: dict[str, Any], decoder: dict[str, Any]) -> Parts:
    """The networks, randomly initialised, from sizes as `model_sizes` gives them."""
    kind, sizes = image_encoder["type"], {key: value for key, value in image_encoder.items() if key != "type"}
    sizes["image_size"] = tuple(sizes["image_size"])
    encoder = IMAGE_ENCODERS[kind](**sizes)
    of_bert = {key: value for key, value in text_encoder.items() if key in BertSizes.__dataclass_fields__}
    text = TextEncoder(
        BertSizes(**of_bert),
        image_width=encoder.width,
        **{key: value for key, value in text_encoder.items() if key not in of_bert},
    )
    mae = MAEDecoder(
        num_patches=encoder.num_patches,
        patch_size=encoder.patch_size,
        width=encoder.width,
        text_width=text.width,
        **decoder,
    )
    return Parts(encoder, text, mae)


def _image_encoder_sizes(config: ImageEncoderConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """image_size: (height, width) in px."""
    given = {key: getattr(config, key) for key in SIZES}
    sizes = NAMED_ENCODERS.get(config.name or "", {}) | {key: value for key, value in given.items() if value}
    common = {
        "type": config.kind,
        "image_size": list(image_size),
        "patch_size": config.patch_size,
        "width": sizes["embed_dim"],
        "depth": sizes["depth"],
        "drop_path": config.drop_path,
    }
    if config.kind == "vit":
        _check_divisible("model.image_encoder.embed_dim", sizes["embed_dim"], "num_heads", sizes["num_heads"])
        return {**common, "num_heads": sizes["num_heads"]}
    scan = {key: getattr(config, key) for key in ("d_state", "divide_out", "scan_backend")}
    if config.kind == "vim":
        return {**common, **scan}
    reduction = sizes.get("register_reduction", 1)
    _check_divisible("model.image_encoder.embed_dim", sizes["embed_dim"], "register_reduction", reduction)
    registers = {"registers": sizes["registers"], "register_reduction": reduction}
    return {**common, **scan, **registers, "register_tokens": config.register_tokens}


def _text_encoder_sizes(config: TextEncoderConfig) -> dict[str, Any]:
    """Sizes as the configuration gives them, else as the named BERT has them, else as BERT base.

    Raises: UserError if they cannot go together, which utils/config_schema.py sees only where all of them are given.
    """
    fields = BertSizes.__dataclass_fields__
    named = {key: value for key, value in bert_config(config.name).items() if key in fields}
    given = {key: value for key, value in vars(config).items() if key in fields and value is not None}
    sizes = BertSizes(**named | given)
    width, heads, layers = sizes.hidden_size, sizes.num_attention_heads, sizes.num_hidden_layers
    _check_divisible("model.text_encoder.hidden_size", width, "num_attention_heads", heads)
    if config.fusion_layer == layers and not config.full_cross_attention:
        raise UserError(
            f"model.text_encoder.fusion_layer {config.fusion_layer} leaves none of {layers} layers for "
            "cross-attention; set full_cross_attention: true or lower fusion_layer"
        )
    return {
        **asdict(sizes),
        "fusion_layer": config.fusion_layer,
        "full_cross_attention": config.full_cross_attention,
    }


def _check_divisible(width_key: str, width: int, heads_key: str, heads: int) -> None:
    if width % heads:
        raise UserError(f"{width_key} {width} is not divisible by {heads_key} {heads}; set both")


def build_momentum_encoder(model: PersonSearchModel, config: Config) -> MomentumEncoder:
    """Copies of the model's encoders as they are now."""
    return MomentumEncoder(model, momentum=config.model.momentum)


def build_queue(config: Config) -> FeatureQueue:
    return FeatureQueue(config.model.queue_size, config.model.embed_dim)
