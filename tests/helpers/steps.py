"""A training step in pieces, as train.py puts it together."""

from typing import NamedTuple

import torch
from torch import Tensor

from dataset.batches import TrainBatch
from dataset.tokenizer import load_tokenizer
from losses.objective import Curriculum, Lesson
from models.build import build_momentum_encoder, build_queue
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from training.objectives import Objectives, build_objectives, build_task, build_trained_model
from utils.config import Config


class Learner(NamedTuple):
    """All that a step works with."""

    model: PersonSearchModel
    objectives: Objectives
    momentum_encoder: MomentumEncoder
    queue: FeatureQueue

    def prepare(self, batch: TrainBatch) -> Lesson:
        return self.objectives.prepare(batch, self.momentum_encoder)

    def losses(self, lesson: Lesson, alpha: float = 0.4) -> dict[str, Tensor]:
        """In one process, the batch in one part."""
        return self.objectives(lesson, lesson.momentum, self.queue, Curriculum(alpha))


def build_learner(config: Config, dtype: torch.dtype = torch.float32) -> Learner:
    """With random weights, drawn as train.py draws them."""
    objectives = build_objectives(config, load_tokenizer(config.model.text_encoder.name))
    model = build_trained_model(config, objectives).to(dtype)
    task = build_task(config, model, objectives)
    return Learner(model, task, build_momentum_encoder(model, config), build_queue(config).to(dtype))
