"""A training step: that of train.py against the one written plainly (bench/plain_step.py), same weights and batch.

    python -m bench.train_step                                    the demo's model, and one of width 384, on a CPU
    python -m bench.train_step --device cuda                      Vim-B at 224 px and BERT base, batches of 8 and 64

Pictures are noise, captions as long as those of CUHK-PEDES with two chunks each, no dropout, weights random; the scan
is by the same backend. Both steps draw the same negatives, masks and words, so their losses and gradients are compared
(fp32; in bf16 some of the words drawn differ). Times: the best of some steps, which take turns. Memory: the peak of two
steps in a process of its own, above the built model, so with gradients and optimiser. Parts: shares of the time, with
their backward passes; the rest is the optimiser, the momentum copies, the queue, copies. Operations: of matrix
products, convolutions and attention, a multiply-add counting two.
"""

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import losses.attribute
import losses.itc
import losses.itm
import losses.mae
import losses.mlm
import losses.mrtd
import losses.prd
from bench import parts, plain_step
from bench.load_checkpoint import resident
from bench.rerank_cases import captions
from bench.timing import matmul_rate, take_turns
from dataset.batches import TrainBatch, collate, to_device
from dataset.texts import Texts
from dataset.tokenizer import load_tokenizer
from losses.objective import ObjectiveSettings
from models.build import build_momentum_encoder, build_queue
from training.allocator import keep_freed_memory
from training.objectives import Objectives, build_objectives, build_trained_model
from training.state import TrainState, build_state
from training.step import train_step
from utils.config import Config, load_config
from utils.precision import best_precision

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
    "demo": ("demo.yaml", [], 32),
    "demo, all pairs": ("demo.yaml", ALL_PAIRS, 32),
    "width 384": ("demo.yaml", WIDTH_384, 32),
    "width 384, 256x128": ("demo.yaml", [*WIDTH_384, *LARGE_IMAGES], 8),
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


class Variant(NamedTuple):
    plain: bool
    precision: str

    @property
    def name(self) -> str:
        return f"{'plain' if self.plain else 'ours'}, {self.precision}"


PLAIN = Variant(True, "fp32")


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    keep_freed_memory()
    precisions = list(dict.fromkeys(["fp32", best_precision(device.type)]))
    rates = {precision: matmul_rate(device.type, precision) for precision in precisions}
    where = f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else torch.cuda.get_device_name()
    console = Console()
    told = ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in rates.items())
    console.print(f"{where}, torch {torch.__version__}; matrix products: {told}")
    for name in args.cases:
        for batch_size in args.batches or [CASES[name][2]]:
            try:
                tables = compare(name, config_of(name, batch_size, args.set), rates, device, args.repeats)
            except torch.OutOfMemoryError:
                console.print(f"{name}, batch {batch_size}: too large for the memory of {where}")
                continue
            for table in tables:
                console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu", help="where to measure")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="default: vim_base on a GPU, else the others")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="samples in a batch (default: by case)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each step; the best counts")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the configuration")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.cases = args.cases or (["vim_base"] if on_gpu else [name for name in CASES if name != "vim_base"])
    args.batches = args.batches or ([8, 64] if on_gpu else None)
    return args


def config_of(name: str, batch_size: int, overrides: Sequence[str]) -> Config:
    file, changes, _ = CASES[name]
    return load_config(CONFIGS / file, [*WITHOUT_DROPOUT, *changes, f"train.batch_size={batch_size}", *overrides])


def build(config: Config, precision: str, device: torch.device) -> Case:
    config = with_precision(config, precision)
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
    task = Objectives(model, objectives, share=config.losses.cross_modal_share)
    return Case(config, state, task, to_device(batch, device))


def with_precision(config: Config, precision: str) -> Config:
    changed: dict[str, Any] = {"precision": precision}
    return replace(config, train=replace(config.train, **changed))


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
        return plain_step.plain_step(case.state, case.objectives, case.batch, ALPHA, case.config)
    return train_step(case.state, case.objectives, case.batch, ALPHA, case.config)


def compare(name: str, config: Config, rates: dict[str, float], device: torch.device, repeats: int) -> list[Table]:
    variants = [PLAIN, *(Variant(False, precision) for precision in rates)]
    # Before this process takes memory of the device for itself. One that does not fit is left out.
    peaks = {variant: peak_memory(config, variant, device) for variant in variants}
    too_large = [
        f"{variant.name}: does not fit in the device's memory" for variant in variants if peaks[variant] is None
    ]
    variants = [variant for variant in variants if peaks[variant] is not None]
    if not variants:
        raise torch.OutOfMemoryError
    cases = {variant: build(config, variant.precision, device) for variant in variants}
    operations = {variant: count_operations(deepcopy(case), variant) for variant, case in cases.items()}
    compared = variants[1:] if PLAIN in variants else []
    told = [f"{v.name}: {difference(cases[PLAIN], cases[v], v)}" for v in compared] + too_large
    seconds = take_turns({v: partial(step, case, v) for v, case in cases.items()}, repeats, device.type)
    batch, title = config.train.batch_size, f"{name}, batch {config.train.batch_size}"
    table = Table("step", "images/s", "times plain", "peak GiB", "GFLOP/image", "of matmul", title=title)
    for v in variants:
        to_plain = seconds[PLAIN] / seconds[v] if PLAIN in seconds else math.nan
        values = [batch / seconds[v], to_plain, peaks[v], operations[v] / batch / 1e9]
        share = operations[v] / seconds[v] / rates[v.precision]
        table.add_row(v.name, *(f"{value:.2f}" for value in values), f"{share:.0%}")
    table.caption = "\n".join(told)
    shown = list(dict.fromkeys([variants[0], variants[-1]]))
    parts_table = Table("part", *(variant.name for variant in shown), title=title)
    columns = [parts.shares(partial(step, cases[v], v), PARTS[v.plain](cases[v].state), device.type) for v in shown]
    for part in columns[0]:
        parts_table.add_row(part, *(f"{column[part]:.1%}" for column in columns))
    return [table, parts_table]


def difference(plain: Case, ours: Case, variant: Variant) -> str:
    """Largest absolute difference of a loss, and of an element of a gradient beside the largest element there is."""
    plain, ours = deepcopy(plain), deepcopy(ours)
    plain_losses, own_losses = step(plain, PLAIN), step(ours, variant)
    loss = max(abs(float(plain_losses[key] - own_losses[key])) for key in plain_losses)
    pairs = zip(gradients(plain), gradients(ours), strict=True)
    gradient = max(float((one - other).abs().max()) for one, other in pairs)
    largest = max(float(one.abs().max()) for one in gradients(plain))
    return f"a loss differs by {loss:.1e}, a gradient by {gradient:.1e} (largest {largest:.1e})"


def gradients(case: Case) -> list[Tensor]:
    return [parameter.grad for parameter in case.state.model.parameters() if parameter.grad is not None]


def count_operations(case: Case, variant: Variant) -> int:
    with FlopCounterMode(display=False) as counter:
        step(case, variant)
    return counter.get_total_flops()


def peak_memory(config: Config, variant: Variant, device: torch.device) -> float | None:
    """GiB above the built model, of two steps in a process of its own; None where a GPU has less."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (config, variant, device))


def _peak_memory(config: Config, variant: Variant, device: torch.device) -> float | None:
    on_gpu = device.type == "cuda"
    try:
        case = build(config, variant.precision, device)
        before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS") * 2**20
        for _ in range(2):
            step(case, variant)
    except torch.OutOfMemoryError:
        return None
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM") * 2**20
    return (peak - before) / 2**30


def own_parts(state: TrainState) -> dict[str, list[tuple[Any, str]]]:
    model = state.model
    return {
        "momentum encoders": [(Objectives, "prepare")],
        "image encoder": [(model, "encode_image")],
        "masked pass and decoder": [(model.image_encoder, "encode_masked"), (model.head("decoder"), "forward")],
        "text mode": [(model.text_encoder, "forward")],
        "cross-modal mode": [(model.text_encoder, "cross_modal")],
        "vocabulary": [(model.text_encoder, "mlm_logits")],
        "losses": [
            (losses.itc, "contrastive_loss"),
            (losses.itm, "itm_loss"),
            (losses.prd, "prd_loss"),
            (losses.mlm, "mlm_loss"),
            (losses.mrtd, "mrtd_loss"),
            (losses.attribute, "attribute_loss"),
            (losses.mae, "mae_loss"),
        ],
    }


def plain_parts(state: TrainState) -> dict[str, list[tuple[Any, str]]]:
    return {
        "momentum encoders": [(plain_step, "teach")],
        "image encoder": [(plain_step, "plain_image")],
        "masked pass and decoder": [(plain_step, "reconstruct")],
        "text mode": [(plain_step, "plain_text")],
        "cross-modal mode": [(plain_step, "plain_cross_modal")],
        "vocabulary": [(state.model.text_encoder, "mlm_logits")],
        "losses": [(plain_step, name) for name in ("contrastive", "attributes", "masked_words")],
    }


PARTS: dict[bool, Callable[[TrainState], dict[str, list[tuple[Any, str]]]]] = {False: own_parts, True: plain_parts}


if __name__ == "__main__":
    main()
