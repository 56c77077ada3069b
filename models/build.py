"""Build the model from a configuration."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import nn
from transformers import PreTrainedTokenizerBase

from models.bert_layers import BertSizes
from models.mae_decoder import MAEDecoder
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from models.targets import StepSettings
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
CROSS_MODAL = frozenset({"itm", "prd", "attribute", "mlm", "mrtd"})  # tasks on text that has seen the image
NAMED_ENCODERS = {
    "vim_tiny": {"embed_dim": 192, "depth": 24},
    "vim_small": {"embed_dim": 384, "depth": 24},
    "vim_base": {"embed_dim": 768, "depth": 24},
    "vit_base_patch16": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def build_model(config: Config, tasks: frozenset[str] | None = None) -> PersonSearchModel:
    """The online model of a configuration, randomly initialised; tasks default to the losses that have a weight.

    Raises: UserError where init.freeze names what the model does not have.
    """
    model = PersonSearchModel(**model_parts(**model_sizes(config, tasks)))
    if tasks is None:
        freeze(model, config.init.freeze)
        freeze(model, unreached_parts(model))  # DDP waits for the gradient of every parameter in training
    return model


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Take the parameters of the parts in names (or these parameters) out of training: they stay as initialised."""
    for name in names:
        found = [own for key, own in model.named_parameters() if key == name or key.startswith(f"{name}.")]
        if not found:
            raise UserError(f"init.freeze: the model has no part {name!r}; name a module, e.g. text_encoder")
        for parameter in found:
            parameter.requires_grad_(False)


def unreached_parts(model: PersonSearchModel) -> list[str]:
    """Parts that none of the model's tasks sends a gradient to: `PersonSearchModel.forward` read backwards."""
    tasks, text = model.tasks, model.text_encoder
    parts = []
    if "itc" not in tasks:  # the draw of negatives uses these without a gradient
        parts += ["vision_proj", "text_proj", "temperature"]
    if not tasks & {"itm", "attribute"}:
        parts.append("itm_head")
    if "mlm" not in tasks:  # mrtd asks the momentum copy of this head
        parts.append("text_encoder.cls")
    if not tasks & CROSS_MODAL:  # text mode alone
        layers = [f"text_encoder.bert.encoder.layer.{number}" for number in range(text.sizes.num_hidden_layers)]
        parts += [f"{layer}.crossattention" for layer in layers[text.first_cross : text.fusion_layer]]
        parts += layers[text.fusion_layer :]
    return parts


def model_sizes(config: Config, tasks: frozenset[str] | None = None) -> dict[str, Any]:
    """What `model_parts` needs, in plain values that fit into JSON, names of models already resolved."""
    mean, std = NORMALIZATIONS[config.model.image_encoder.normalization]
    return {
        "image_encoder": _image_encoder_sizes(config.model.image_encoder, config.dataset.image_size),
        "text_encoder": _text_encoder_sizes(config.model.text_encoder),
        "decoder": {"depth": config.model.decoder.depth, "num_heads": config.model.decoder.num_heads},
        "embed_dim": config.model.embed_dim,
        "temperature": config.model.temperature,
        "pixel_mean": list(mean),
        "pixel_std": list(std),
        "tasks": sorted(tasks_of(config) if tasks is None else tasks),
    }


def model_parts(
    *, image_encoder: dict, text_encoder: dict, decoder: dict, tasks: Collection[str], **plain: Any
) -> dict[str, Any]:
    """Arguments of PersonSearchModel, from sizes as `model_sizes` gives them."""
    kind, sizes = image_encoder["type"], {key: value for key, value in image_encoder.items() if key != "type"}
    sizes["image_size"] = tuple(sizes["image_size"])
    encoder: Any = VisionTransformer(**sizes) if kind == "vit" else VisionMamba(**sizes)
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
    return {"image_encoder": encoder, "text_encoder": text, "decoder": mae, "tasks": frozenset(tasks), **plain}


def _image_encoder_sizes(config: ImageEncoderConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """image_size: (height, width) in px."""
    given = {key: getattr(config, key) for key in ("embed_dim", "depth", "num_heads")}
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
    return {**common, **scan}


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


def step_settings(config: Config, tokenizer: PreTrainedTokenizerBase) -> StepSettings:
    """Constants of a training step's random draws."""
    return StepSettings(
        vocab_size=len(tokenizer),
        mask_id=tokenizer.mask_token_id,
        cls_id=tokenizer.cls_token_id,
        mlm_probability=config.losses.mlm_probability,
        mrtd_mask_probability=config.losses.mrtd_mask_probability,
        mask_ratio=config.model.mask_ratio,
        patch_size=config.model.image_encoder.patch_size,
        cross_modal_share=config.losses.cross_modal_share,
        tasks=tasks_of(config),
    )


def tasks_of(config: Config) -> frozenset[str]:
    """Keys of the losses that have a weight."""
    return frozenset(key for key, weight in vars(config.losses.weights).items() if weight > 0)
