"""Re-ranking: image by image (`evaluation.rerank`) against the published loop over queries (`bench.plain_rerank`).

    python -m bench.evaluate                  a few minutes on two CPU cores
    python -m bench.evaluate --device cuda    and the whole evaluation at the size of CUHK-PEDES
    python -m bench.evaluate --memory 20000   memory of evaluating a large gallery, with random tokens

Speed is measured with BERT base, 197 image tokens, two captions per image, captions as long as those of CUHK-PEDES, and
128 candidates per caption. The plain loop scores the candidates of some captions. Ours scores all pairs of some images,
as one of several processes does, so that every image has as many captions as in the whole gallery. Ours then scores the
plain loop's pairs again, for comparison. Measures are taken with a narrow model on all pairs of a small gallery, whose
captions get their people by the plain loop's ranking (`bench.rerank_cases.people_of`).

The exit status is 1, with a line for each reason, if fp32 differs from plain by more than 1e-4 or in its order, if the
precision that `auto` picks differs by more than 0.02, or if R@k of either leaves the 95 % interval of plain.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import torch

from bench.rerank_cases import NARROW, RerankCase, loaders, matching_model, random_gallery, whole_model
from bench.rerank_memory import show_memory
from bench.rerank_runs import (
    Agreement,
    Measured,
    RerankRun,
    agreement,
    compare_scores,
    faults,
    measured,
    run_ours,
    run_plain,
    time_in_turns,
)
from bench.rows import Rows
from evaluation.retrieval import score_gallery
from models.bert_layers import BertSizes
from models.person_search import PersonSearchModel
from utils.distributed import Process
from utils.log import set_up_logging
from utils.precision import best_precision

TOKENS_PER_IMAGE = 197  # 224 px
CUHK_PEDES = (3074, 6156)  # images and captions of its test split

MEANINGS = {
    "gallery": "images; there are twice as many captions",
    "top_k": "candidates of each caption",
    "plain_queries": "captions that the plain loop is timed with",
    "images": "images whose pairs ours is timed with",
    "small_gallery": "images that the narrow model ranks",
}


class Sizes(NamedTuple):
    """Sizes of the runs; MEANINGS explains them."""

    gallery: int
    top_k: int
    plain_queries: int
    images: int
    small_gallery: int


DEFAULT_SIZES = {"cpu": Sizes(128, 128, 3, 3, 64), "cuda": Sizes(1024, 128, 24, 256, 256)}


def main(sizes_of_model: BertSizes | None = None) -> int:
    """Returns: the exit status. sizes_of_model: replace BERT base's, for tests."""
    args = parse_arguments()
    if args.memory or args.whole or args.device == "cuda":
        set_up_logging()  # for the progress of long work
    if args.memory:
        show_memory(args.memory, args.memory_captions)
        return 0
    device = torch.device(args.device)
    sizes = Sizes(*(getattr(args, name) or value for name, value in DEFAULT_SIZES[device.type]._asdict().items()))
    auto = best_precision(device.type)
    precisions = list(dict.fromkeys(["fp32", auto, "bf16"]))
    print(f"{describe(device)}, precision auto: {auto}", flush=True)

    model = matching_model(sizes_of_model or BertSizes(), device, full=not args.late_fusion)
    case = random_gallery(sizes.gallery, TOKENS_PER_IMAGE)
    title = f"{sizes.gallery} images, {len(case.texts)} captions, mean {case.mean_tokens:.1f} tokens, k = {sizes.top_k}"
    plain = show_speed(model, case, sizes, title)
    wide = show_agreements(compare_scores(model, case, sizes.top_k, plain, precisions), "captions of the plain loop")
    if args.whole or device.type == "cuda":
        seconds = time_whole(*CUHK_PEDES, device)
        what = f"Vim-B at 224, {CUHK_PEDES[0]} images, {CUHK_PEDES[1]} captions"
        print(f"\nwhole evaluation, {what}: {seconds}", flush=True)

    model, case = matching_model(NARROW, device), random_gallery(sizes.small_gallery, TOKENS_PER_IMAGE)
    runs = {"plain": run_plain(model, case, sizes.top_k)}
    runs |= {precision: run_ours(model, case, sizes.top_k, precision) for precision in precisions}
    spread = float(runs["plain"].scores[runs["plain"].scores > -torch.inf].std())
    compared = (agreement(precision, runs[precision], runs["plain"]) for precision in precisions)
    narrow = show_agreements(compared, f"a narrow model, {len(case.texts)} captions, scores spread by {spread:.2f}")
    measures = measured(runs)
    show_measures(measures)
    found = faults([*wide, *narrow], measures, auto)
    for fault in found:
        print(f"FAULT: {fault}")
    return 1 if found else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure")
    parser.add_argument("--memory", type=int, metavar="IMAGES", help="only the memory of so many images and captions")
    parser.add_argument(
        "--memory-captions", type=int, metavar="N", default=128, help="captions that --memory re-ranks (default: 128)"
    )
    parser.add_argument("--whole", action="store_true", help="the whole evaluation on a CPU as well: many hours")
    parser.add_argument("--late-fusion", action="store_true", help="cross-attention in the upper half of layers only")
    for name in Sizes._fields:
        defaults = ", ".join(f"{kind} {getattr(sizes, name)}" for kind, sizes in DEFAULT_SIZES.items())
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, metavar="N", help=f"{MEANINGS[name]} (default: {defaults})")
    return parser.parse_args()


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def show_speed(model: PersonSearchModel, case: RerankCase, sizes: Sizes, title: str) -> RerankRun:
    """Print a row for each turn, then one for each way. Returns: all turns of the plain loop."""
    rows = Rows({"re-ranking": 20}, ("pairs", "seconds", "pairs/s", "times plain"), title=title)

    def show_turn(name: str, run: RerankRun) -> None:
        rows.add(f"{label(name)}, a turn", f"{run.pairs}", f"{run.seconds:.1f}", f"{run.pairs_per_second:.1f}", "-")

    timed = time_in_turns(
        model, case, sizes.top_k, plain_queries=sizes.plain_queries, images=sizes.images, show=show_turn
    )
    for name, (run, rate) in timed.items():
        ratio = rate / timed["plain"].pairs_per_second
        rows.add(f"{label(name)}, fastest", f"{run.pairs}", f"{run.seconds:.1f}", f"{rate:.1f}", f"{ratio:.1f}")
    return timed["plain"].run


def show_agreements(agreements: Iterable[Agreement], title: str) -> list[Agreement]:
    rows = Rows({"compared with plain, fp32": 10}, ("pairs", "largest difference", "order"), title=title)
    shown = []
    for one in agreements:
        order = "the same" if one.same_order else "differs"
        rows.add(label(one.precision), f"{one.pairs}", f"{one.difference:.1e}", order)
        shown.append(one)
    return shown


def show_measures(measures: dict[str, Measured]) -> None:
    title = "measures of the narrow model in percent, with their 95 % intervals over the captions"
    rows = Rows({"re-ranking": 11}, ("R@1", "R@5", "R@10", "within plain's"), title=title, width=19)
    for name, own in measures.items():
        values = zip(own.values, own.intervals, strict=True)
        cells = (f"{value:.1f} ({low:.1f}-{high:.1f})" for value, (low, high) in values)
        within = "-" if name == "plain" else "yes" if own.is_within(measures["plain"]) else "no"
        rows.add(label(name), *cells, within)


def label(name: str) -> str:
    return "plain, fp32" if name == "plain" else f"ours, {name}"


def time_whole(num_images: int, num_captions: int, device: torch.device) -> str:
    """Seconds of encoding and both stages in the precision that `auto` picks, with random weights and pictures."""
    model, process = whole_model(device), Process(0, 1, 0, device)
    for images, texts in ((64, 64), (num_images, num_captions)):  # the first run warms up
        own = loaders(images, texts, batch_size=64, workers=0 if device.type == "cpu" else 8)
        begin = time.perf_counter()
        stages = score_gallery(model, *own, process=process, precision="auto", rerank_top_k=128).seconds
        seconds = time.perf_counter() - begin  # the scores are on the CPU, so the device has finished
    return f"{seconds:.1f} s (" + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()) + ")"


if __name__ == "__main__":
    sys.exit(main())
