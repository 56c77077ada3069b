"""Build the model from a configuration."""

from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers import PreTrainedTokenizerBase

from models.bert_layers import BertSizes
from models.image_features import ImageEncoder
from models.mae_decoder import MAEDecoder
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from models.targets import StepSettings
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.config_schema import Config, ImageEncoderConfig, TextEncoderConfig
from utils.pretrained import bert_config

NORMALIZATIONS = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
NAMED_ENCODERS = {
    "vim_tiny": {"embed_dim": 192, "depth": 24},
    "vim_small": {"embed_dim": 384, "depth": 24},
    "vim_base": {"embed_dim": 768, "depth": 24},
    "vit_base_patch16": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def build_model(config: Config, tasks: frozenset[str] | None = None) -> PersonSearchModel:
    """The online model of a configuration, randomly initialised; tasks default to the losses that have a weight."""
    image_encoder = build_image_encoder(config.model.image_encoder, config.dataset.image_size)
    text_encoder = build_text_encoder(config.model.text_encoder, image_width=image_encoder.width)
    decoder = MAEDecoder(
        num_patches=image_encoder.num_patches,
        patch_size=image_encoder.patch_size,
        width=image_encoder.width,
        text_width=text_encoder.width,
        depth=config.model.decoder.depth,
        num_heads=config.model.decoder.num_heads,
    )
    mean, std = NORMALIZATIONS[config.model.image_encoder.normalization]
    return PersonSearchModel(
        image_encoder,
        text_encoder,
        decoder,
        embed_dim=config.model.embed_dim,
        temperature=config.model.temperature,
        pixel_mean=mean,
        pixel_std=std,
        tasks=tasks_of(config) if tasks is None else tasks,
    )


def build_image_encoder(config: ImageEncoderConfig, image_size: tuple[int, int]) -> ImageEncoder:
    """image_size: (height, width) in px."""
    given = {key: getattr(config, key) for key in ("embed_dim", "depth", "num_heads")}
    sizes = NAMED_ENCODERS.get(config.name or "", {}) | {key: value for key, value in given.items() if value}
    common = {
        "image_size": image_size,
        "patch_size": config.patch_size,
        "width": sizes["embed_dim"],
        "depth": sizes["depth"],
        "drop_path": config.drop_path,
    }
    if config.kind == "vit":
        return VisionTransformer(**common, num_heads=sizes["num_heads"])
    return VisionMamba(**common, d_state=config.d_state, divide_out=config.divide_out, scan_backend=config.scan_backend)


def build_text_encoder(config: TextEncoderConfig, *, image_width: int) -> TextEncoder:
    """Sizes as the configuration gives them, else as the named BERT has them, else as BERT base."""
    fields = BertSizes.__dataclass_fields__
    named = {key: value for key, value in bert_config(config.name).items() if key in fields}
    given = {key: value for key, value in vars(config).items() if key in fields and value is not None}
    return TextEncoder(
        BertSizes(**named | given),
        image_width=image_width,
        fusion_layer=config.fusion_layer,
        full_cross_attention=config.full_cross_attention,
    )


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
        tasks=tasks_of(config),
    )


def tasks_of(config: Config) -> frozenset[str]:
    """Keys of the losses that have a weight."""
    return frozenset(key for key, weight in vars(config.losses.weights).items() if weight > 0)
