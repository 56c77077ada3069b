"""The objectives of a run over one model, and what of the model they train.

A newcomer's way through a step: `training.lessons` (before the online passes), `training.passes` (the passes that all
objectives share), and then one file of losses/ for each loss.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dataset.batches import TrainBatch
from losses import OBJECTIVES
from losses.objective import Curriculum, Embeddings, Lesson, Objective, ObjectiveSettings, Step
from models.build import build_model
from models.joined_weights import joined_once
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from training.lessons import prepare_lesson
from training.passes import run_passes
from utils.config import Config
from utils.errors import UserError


class Objectives(nn.Module):
    """The online model with its objectives: losses = objectives(lesson, candidates, queue, now).

    Args:
        weights: factors of the summed losses, by key.
        share: of a batch's pairs, the first ones, that all objectives but itc see.
        own_shares: shares of objectives that differ from it, by key.
    """

    weights: Tensor  # (objectives,), on the model's device

    def __init__(
        self,
        model: PersonSearchModel,
        objectives: Sequence[Objective],
        *,
        weights: Mapping[str, float],
        share: float = 1.0,
        own_shares: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model, self.objectives, self.share, self.own_shares = model, tuple(objectives), share, own_shares
        factors = torch.tensor([float(weights[key]) for key in self.keys], device=model.temperature.device)
        self.register_buffer("weights", factors, persistent=False)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(objective.key for objective in self.objectives)

    def prepare(self, batch: TrainBatch, momentum_encoder: MomentumEncoder) -> Lesson:
        """Draws and momentum targets of a part of a batch, without a gradient."""
        size = len(batch.person_id)
        num_pairs = math.ceil(size * self.share)
        own_numbers = {key: math.ceil(size * share) for key, share in self.own_shares.items()}
        with torch.no_grad(), joined_once(momentum_encoder, batch.person_id.device.type):
            return prepare_lesson(batch, num_pairs, self.model, momentum_encoder, self.objectives, own_numbers)

    def forward(
        self, lesson: Lesson, candidates: Embeddings, queue: FeatureQueue, now: Curriculum
    ) -> dict[str, Tensor]:
        """The shared passes, then a scalar loss by key.

        Args:
            candidates: momentum embeddings of the whole batch of all processes, which itc compares with.
        """
        with joined_once(self.model, lesson.image.device.type):
            passes = run_passes(self.model, lesson, self.objectives, now.hardness)
            step = Step(self.model, lesson, passes, candidates, queue, now.alpha)
            return {each.key: each.loss(step, lesson.prepared[each.key]) for each in self.objectives}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the losses by key."""
        return torch.stack([losses[key] for key in self.keys]) @ self.weights


def build_objectives(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[Objective]:
    """The objectives that have a weight, in the order of `losses.OBJECTIVES`."""
    settings = ObjectiveSettings(
        vocab_size=len(tokenizer),
        mask_id=tokenizer.mask_token_id,
        cls_id=tokenizer.cls_token_id,
        mlm_probability=config.losses.mlm_probability,
        mrtd_mask_probability=config.losses.mrtd_mask_probability,
        mask_ratio=config.model.mask_ratio,
        patch_size=config.model.image_encoder.patch_size,
        mlm_attribute_probability=config.losses.mlm_attribute_probability,
        mrtd_other_image=config.losses.mrtd_other_image,
        attribute_replaced=config.losses.attribute_replaced,
    )
    weights = config.losses.weights
    return [kind(settings) for key, kind in OBJECTIVES.items() if weights.get(key, 0) > 0]


def build_task(config: Config, model: PersonSearchModel, objectives: Sequence[Objective]) -> Objectives:
    """The objectives over their model, with the weights and the shares of pairs that the configuration gives them."""
    losses = config.losses
    own_shares = {} if losses.mlm_share is None else {"mlm": losses.mlm_share}
    return Objectives(model, objectives, weights=losses.weights, share=losses.cross_modal_share, own_shares=own_shares)


def build_trained_model(config: Config, objectives: Sequence[Objective]) -> PersonSearchModel:
    """The online model with the heads of its objectives; parts that none of them trains get no gradient.

    Raises: UserError where init.freeze names what the model does not have.
    """

    def heads(text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        return {name: head for each in objectives for name, head in each.heads(text_width, decoder).items()}

    model = build_model(config, heads)
    freeze(model, config.init.freeze)
    freeze(model, unreached_parts(model, objectives))  # DDP waits for the gradient of every parameter in training
    return model


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Take the parameters of the parts in names (or these parameters) out of training: they stay as initialised."""
    for name in names:
        found = [own for key, own in model.named_parameters() if key == name or key.startswith(f"{name}.")]
        if not found:
            raise UserError(f"init.freeze: the model has no part {name!r}; name a module, e.g. text_encoder")
        for parameter in found:
            parameter.requires_grad_(False)


def unreached_parts(model: PersonSearchModel, objectives: Sequence[Objective]) -> list[str]:
    """Parts of the model that no objective sends a gradient to."""
    reached = {part for objective in objectives for part in objective.reaches}
    optional = ("vision_proj", "text_proj", "temperature", "itm_head", "text_encoder.cls")
    parts = [part for part in optional if part not in reached]
    if not any(objective.sees_pairs or objective.has_rows for objective in objectives):  # text mode alone
        text = model.text_encoder
        layers = [f"text_encoder.bert.encoder.layer.{number}" for number in range(text.sizes.num_hidden_layers)]
        parts += [f"{layer}.crossattention" for layer in layers[text.first_cross : text.fusion_layer]]
        parts += layers[text.fusion_layer :]
    return parts
