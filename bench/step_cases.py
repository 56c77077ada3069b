"""The training steps that bench.train_step compares: models, made-up batches, one step of ours or of the plain one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.plain_step import plain_step
from bench.rerank_cases import captions
from dataset.batches import TrainBatch, collate, collate_for_gpu, to_device
from dataset.texts import Texts
from dataset.tokenizer import load_tokenizer
from losses.objective import Curriculum, ObjectiveSettings
from models.build import build_momentum_encoder, build_queue
from training.graphs import device_step_of
from training.objectives import Objectives, build_objectives, build_task, build_trained_model
from training.parallel import compile_layers
from training.state import TrainState, build_state
from training.step import DeviceStep, train_step
from utils.config import Config, load_config
from utils.distributed import Process

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WITHOUT_DROPOUT = [
    "model.text_encoder.hidden_dropout_prob=0",
    "model.text_encoder.attention_probs_dropout_prob=0",
    "model.image_encoder.drop_path=0",
]
ALL_PAIRS = ["losses.cross_modal_share=1"]
WIDTH_384 = [
    *ALL_PAIRS,
    "model.image_encoder.embed_dim=384",
    "model.text_encoder.num_hidden_layers=6",
    "model.text_encoder.fusion_layer=3",
    "init.freeze=[]",
]
LARGE_IMAGES = ["dataset.image_size=[256, 128]"]
CASES = {  # name: file, changes, samples in a batch
    "demo": ("demo_from_scratch.yaml", [], 32),
    "demo, all pairs": ("demo_from_scratch.yaml", ALL_PAIRS, 32),
    "width 384": ("demo_from_scratch.yaml", WIDTH_384, 32),
    "width 384, 256x128": ("demo_from_scratch.yaml", [*WIDTH_384, *LARGE_IMAGES], 8),
    "vim_base": ("cuhk_pedes.yaml", ["model.text_encoder.name=bert-base-uncased"], 8),
}
ALPHA = 0.4
SPECIAL_IDS = 5  # of a small vocabulary, the first ones
TEXTS_PER_PERSON = 2  # in a batch, so that some negatives are forbidden


class Case(NamedTuple):
    """A model with all that a step needs."""

    config: Config
    state: TrainState
    objectives: Objectives
    batch: TrainBatch
    run: DeviceStep


class Variant(NamedTuple):
    plain: bool
    precision: str
    graph: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        options = [name for name, chosen in (("graph", self.graph), ("compiled", self.compiled)) if chosen]
        return ", ".join(["plain" if self.plain else "ours", self.precision, *options])


PLAIN = Variant(True, "fp32")


def config_of(name: str, batch_size: int, overrides: Sequence[str]) -> Config:
    file, changes, _ = CASES[name]
    return load_config(CONFIGS / file, [*WITHOUT_DROPOUT, *changes, f"train.batch_size={batch_size}", *overrides])


def build(config: Config, variant: Variant, device: torch.device) -> Case:
    changed: dict[str, Any] = {"precision": variant.precision, "cuda_graph": variant.graph}
    config = replace(config, train=replace(config.train, **changed))
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    torch.manual_seed(0)
    objectives = build_objectives(config, tokenizer)
    model = build_trained_model(config, objectives).to(device).train()
    teacher = build_momentum_encoder(model, config)
    with torch.no_grad():
        for parameter in teacher.parameters():  # as after some steps: no longer equal
            parameter.add_(0.01 * parameter.abs().mean() * torch.randn_like(parameter))
    state = build_state(model, teacher, build_queue(config).to(device), config, total_steps=1000, filled=[])
    sizes = config.train.batch_size, config.dataset.image_size, config.dataset.max_words
    batch = made_up_batch(*sizes, objectives[0].settings)
    if device.type == "cuda":
        batch = collate_for_gpu(batch, parts=config.train.accumulate, shares=config.losses.shares)
    if variant.compiled:
        compile_layers(model, teacher)
    task = build_task(config, model, objectives)
    run = device_step_of(config, Process(0, 1, 0, device), state.optimizer)
    return Case(config, state, task, to_device(batch, device), run)


def made_up_batch(size: int, image_size: tuple[int, int], max_words: int, settings: ObjectiveSettings) -> TrainBatch:
    images = torch.randint(0, 256, (2, size, 3, *image_size), generator=torch.Generator().manual_seed(0))
    texts = [made_up_text(ids[:max_words], settings) for ids in captions(2 * size)]
    own, weak = collate(texts[:size]), collate(texts[size:])
    image_1, image_2 = images.to(torch.uint8)
    row = torch.arange(size)
    return TrainBatch(image_1, image_2, own, weak, person_id=row // TEXTS_PER_PERSON, replaced=row % 2)


def made_up_text(ids: Tensor, settings: ObjectiveSettings) -> Texts:
    """[CLS] first; the second and third word are a chunk, and so are the last two."""
    ids = SPECIAL_IDS + ids % (settings.vocab_size - SPECIAL_IDS)
    ids[0] = settings.cls_id
    chunks = torch.zeros_like(ids)
    chunks[1:3], chunks[-2:] = 1, 2
    return Texts(ids, torch.ones_like(ids), chunks)


def step(case: Case, variant: Variant) -> dict[str, Tensor]:
    """One step of a variant; the same draws each time."""
    torch.manual_seed(1)
    if variant.plain:
        return plain_step(case.state, case.objectives, case.batch, ALPHA, case.config)
    return train_step(case.state, case.objectives, case.batch, Curriculum(ALPHA), case.config, case.run)


def gradients(case: Case) -> list[Tensor]:
    return [parameter.grad for parameter in case.state.model.parameters() if parameter.grad is not None]
