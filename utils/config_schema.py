"""Types, units and checks of every configuration key; the default values live in configs/base.yaml alone.

One frozen class per section, attribute names = YAML keys, unknown keys forbidden. What each key means is written beside
it in base.yaml. Sizes are in the unit that base.yaml states; null (None) means "as the named model has it".
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from utils.config_values import (
    STRICT,
    BelowOne,
    Fraction,
    ImpossibleValueError,
    NaturalInt,
    NonEmptyStr,
    NonNegativeFloat,
    NonZeroFraction,
    PositiveFloat,
    PositiveInt,
    as_height_width,
    as_roots,
    check_divisible,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetConfig:
    name: Literal["CUHK-PEDES", "ICFG-PEDES", "RSTPReid", "custom"]
    root: Annotated[str | tuple[str, ...], BeforeValidator(as_roots)]  # several: see folder and more_folders
    image_size: Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(as_height_width)]  # (height, width), px
    max_words: PositiveInt
    weak_positive_probability: Fraction
    workers: NaturalInt
    cache: bool
    on_bad_image: Literal["error", "skip"]

    @property
    def folder(self) -> Path:
        """The only root, or the first, which alone is evaluated on."""
        return Path(self.root if isinstance(self.root, str) else self.root[0]).expanduser()

    @property
    def more_folders(self) -> tuple[Path, ...]:
        """The other roots, which are trained on as well."""
        return () if isinstance(self.root, str) else tuple(Path(root).expanduser() for root in self.root[1:])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageEncoderConfig:
    """A name, or name null with type and sizes; sizes beside a name override the name's."""

    name: (
        Literal[
            "vim_tiny",
            "vim_small",
            "vim_base",
            "mamba_reg_tiny",
            "mamba_reg_small",
            "mamba_reg_base",
            "mamba_reg_large",
            "vit_base_patch16",
        ]
        | None
    )
    type: Literal["vim", "vit"] | None
    embed_dim: PositiveInt | None
    depth: PositiveInt | None
    patch_size: PositiveInt
    d_state: PositiveInt
    divide_out: bool
    registers: PositiveInt | None
    register_reduction: PositiveInt | None
    register_tokens: bool
    num_heads: PositiveInt | None
    drop_path: BelowOne
    normalization: Literal["imagenet", "clip"]
    scan_backend: Literal["auto", "mamba-ssm", "triton", "cpu", "numba", "reference"]

    @property
    def kind(self) -> str:
        """ "vim", "mamba_reg" (a vim with registers) or "vit", whether it was given by the name or by the type."""
        if self._family == "vit":
            return "vit"
        return "mamba_reg" if self.registers or str(self.name).startswith("mamba_reg") else "vim"

    @property
    def _family(self) -> str:
        return self.type or ("vit" if str(self.name).startswith("vit") else "vim")

    def __post_init__(self) -> None:
        if self.name is None:
            needed = ("type", "embed_dim", "depth", *(("num_heads",) if self.type == "vit" else ()))
            missing = [key for key in needed if getattr(self, key) is None]
            if missing:
                raise ImpossibleValueError(f"name is null, so {', '.join(missing)} must be given", "name", missing[0])
        elif self.name.startswith("vit") != (self._family == "vit"):
            raise ImpossibleValueError(f"name {self.name} is not of type {self.type}; set one to null", "name", "type")
        if self.kind != "vit" and self.num_heads is not None:
            raise ImpossibleValueError("num_heads belongs to vit; a vim has no attention, set it to null", "num_heads")
        self._check_registers()
        check_divisible(self.embed_dim, self.num_heads, "embed_dim", "num_heads")

    def _check_registers(self) -> None:
        if self.kind == "vit" and self.registers is not None:
            raise ImpossibleValueError("registers belong to vim; set them to null for a vit", "registers")
        if self.kind != "mamba_reg" and self.register_reduction is not None:
            message = "register_reduction needs registers, and this encoder has none; set it to null"
            raise ImpossibleValueError(message, "register_reduction", "registers")
        check_divisible(self.embed_dim, self.register_reduction, "embed_dim", "register_reduction")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextEncoderConfig:
    name: NonEmptyStr
    fusion_layer: PositiveInt
    full_cross_attention: bool
    hidden_size: PositiveInt | None
    num_hidden_layers: PositiveInt | None
    num_attention_heads: PositiveInt | None
    intermediate_size: PositiveInt | None
    max_position_embeddings: PositiveInt | None
    vocab_size: PositiveInt | None
    hidden_dropout_prob: BelowOne | None
    attention_probs_dropout_prob: BelowOne | None

    def __post_init__(self) -> None:
        check_divisible(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        if self.num_hidden_layers is None:
            return
        keys = ("fusion_layer", "num_hidden_layers")
        if self.fusion_layer > self.num_hidden_layers:
            message = f"fusion_layer {self.fusion_layer} is more than num_hidden_layers {self.num_hidden_layers}"
            raise ImpossibleValueError(message, *keys)
        if self.fusion_layer == self.num_hidden_layers and not self.full_cross_attention:
            message = "no layer is left for cross-attention; set full_cross_attention: true or lower fusion_layer"
            raise ImpossibleValueError(message, *keys, "full_cross_attention")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderConfig:
    depth: PositiveInt
    num_heads: PositiveInt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    image_encoder: ImageEncoderConfig
    text_encoder: TextEncoderConfig
    embed_dim: PositiveInt
    queue_size: PositiveInt
    momentum: BelowOne
    temperature: Annotated[float, Field(ge=0.001, le=0.5)]  # the range that training keeps it in
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    decoder: DecoderConfig

    def __post_init__(self) -> None:
        width, heads = self.image_encoder.embed_dim, self.decoder.num_heads
        check_divisible(width, heads, "image_encoder.embed_dim", "decoder.num_heads")


def _check_weights(weights: dict[str, float]) -> dict[str, float]:
    if not any(weights.values()):
        raise ImpossibleValueError("every weight is 0, so there is nothing to train; set one above 0", *weights)
    return weights


LossWeights = Annotated[dict[str, NonNegativeFloat], AfterValidator(_check_weights)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossesConfig:
    weights: LossWeights  # factors of the summed losses by key; 0 skips the loss and its part of the passes
    alpha: Fraction
    warm_up: bool
    mlm_probability: NonZeroFraction
    mlm_attribute_probability: NonZeroFraction | None
    mrtd_mask_probability: NonZeroFraction
    mrtd_other_image: bool
    attribute_replaced: bool | Literal["only"]
    cross_modal_share: NonZeroFraction
    mlm_share: NonZeroFraction | None
    hard_negatives_after_steps: NaturalInt

    def __post_init__(self) -> None:
        if self.attribute_replaced and not self.weights.get("mrtd"):
            message = "attribute_replaced needs the captions that mrtd rewrites; give mrtd a weight above 0"
            raise ImpossibleValueError(message, "attribute_replaced", "weights.mrtd")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of a batch's pairs, all that go through the cross-modal encoder together."""
        return (self.cross_modal_share,) if self.mlm_share is None else (self.cross_modal_share, self.mlm_share)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InitConfig:
    paths: tuple[NonEmptyStr, ...]
    allow_missing: tuple[NonEmptyStr, ...]
    copy_cross_attention: bool
    bert_layers: tuple[NaturalInt, ...] | None
    freeze: tuple[NonEmptyStr, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    lr: PositiveFloat
    lr_new: PositiveFloat
    weight_decay: NonNegativeFloat
    betas: tuple[BelowOne, BelowOne]
    eps: PositiveFloat
    clip_norm: PositiveFloat | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScheduleConfig:
    warmup_steps: NaturalInt
    min_lr: NonNegativeFloat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt
    precision: Literal["fp32", "bf16", "fp16", "auto"]
    compile: bool
    cuda_graph: bool | Literal["auto"]
    activation_checkpointing: bool
    sharding: Literal["none", "fsdp"]
    seed: Annotated[int, Field(ge=0, lt=2**31)]  # room for seed + rank below NumPy's limit of 2**32
    log_every_steps: PositiveInt
    checkpoint_every_steps: PositiveInt | None
    keep_checkpoints: PositiveInt
    stop_after_steps: PositiveInt | None
    early_stopping: PositiveInt | None

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            message = f"batch_size {self.batch_size} does not divide into {self.accumulate} equal parts"
            raise ImpossibleValueError(message, "accumulate", "batch_size")
        if self.sharding == "fsdp" and self.precision == "fp16":
            raise ImpossibleValueError("fp16 does not go with sharding fsdp; use bf16", "precision", "sharding")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvalConfig:
    batch_size: PositiveInt
    rerank_top_k: NaturalInt
    rerank_similarity: NonNegativeFloat
    every: PositiveInt
    select_on: Literal["val", "test"]
    tail: Literal["similarity", "constant"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DebugConfig:
    deterministic: bool
    detect_anomaly: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """The whole configuration of a run, checked."""

    dataset: DatasetConfig
    model: ModelConfig
    losses: LossesConfig
    init: InitConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig
    eval: EvalConfig
    debug: DebugConfig

    def __post_init__(self) -> None:
        self._check_patches()
        positions, words = self.model.text_encoder.max_position_embeddings, self.dataset.max_words
        if positions is not None and words > positions:
            message = f"dataset.max_words {words} does not fit into max_position_embeddings {positions}"
            raise ImpossibleValueError(message, "dataset.max_words", "model.text_encoder.max_position_embeddings")
        if self.schedule.min_lr > self.optimizer.lr:
            message = f"schedule.min_lr {self.schedule.min_lr} is more than optimizer.lr {self.optimizer.lr}"
            raise ImpossibleValueError(message, "schedule.min_lr", "optimizer.lr")

    def _check_patches(self) -> None:
        (height, width), patch = self.dataset.image_size, self.model.image_encoder.patch_size
        keys = ("dataset.image_size", "model.image_encoder.patch_size")
        for size in (height, width):
            if size % patch:
                near = max(patch, round(size / patch) * patch)
                message = f"{size} px is not divisible by patch_size {patch}; the nearest size is {near}"
                raise ImpossibleValueError(message, *keys)
        patches = (height // patch) * (width // patch)
        if not 1 <= int(patches * (1 - self.model.mask_ratio)) < patches:
            message = f"mask_ratio {self.model.mask_ratio} leaves no patch to see or none to rebuild of {patches}"
            raise ImpossibleValueError(message, "model.mask_ratio", *keys)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, as in YAML or JSON."""
        return ADAPTER.dump_python(self, mode="json")


ADAPTER: TypeAdapter[Config] = TypeAdapter(Config)
