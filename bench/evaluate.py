"""Re-ranking: image by image (`utils.rerank`) against the published loop over queries (`bench.plain_rerank`).

    python -m bench.evaluate                  a few minutes on two CPU cores
    python -m bench.evaluate --device cuda    and the whole evaluation at the size of CUHK-PEDES
    python -m bench.evaluate --memory 20000   storage of a large gallery, with random tokens

Speed is that of BERT base with 197 image tokens, two captions per image, captions as long as those of CUHK-PEDES, and
128 candidates for each. The plain loop scores the candidates of some of the captions, ours all pairs of some of the
images, as one of several processes does: every image with as many captions as in the whole. What the plain loop has
scored is scored again by ours, and compared. Agreement is that of a narrow model on all pairs of a small gallery,
`first 1` meaning that the two rank the same image first, `first 5` and `first 10` that its first image is among ours.
"""

import argparse
import resource
import time
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.plain_rerank import plain_rerank
from bench.rerank_cases import IMAGE_WIDTH, MAX_WORDS, NARROW, captions, loaders, matching_model, whole_model
from models.bert_layers import BertSizes
from models.person_search import PersonSearchModel
from utils.distributed import Process
from utils.log import set_up_logging
from utils.precision import autocast, best_precision
from utils.rerank import rerank
from utils.retrieval import score_gallery
from utils.token_store import TokenStore

TOKENS_PER_IMAGE = 197  # 224 px
LARGE_IMAGE_TOKENS = 577  # 384 px
CUHK_PEDES = (3074, 6156)  # images and captions of its test split


MEANINGS = {
    "gallery": "images; there are twice as many captions",
    "top_k": "candidates of each caption",
    "plain_queries": "captions that the plain loop is timed with",
    "images": "images whose pairs ours is timed with",
    "small_gallery": "images that the narrow model ranks",
}


class Sizes(NamedTuple):
    """As in MEANINGS."""

    gallery: int
    top_k: int
    plain_queries: int
    images: int
    small_gallery: int


DEFAULT_SIZES = {"cpu": Sizes(128, 128, 2, 3, 64), "cuda": Sizes(1024, 128, 24, 256, 256)}


def main() -> None:
    args = parse_arguments()
    if args.memory or args.whole:
        set_up_logging()  # for the progress of long work
    device = torch.device(args.device)
    if args.memory:
        show_memory(args.memory)
        return
    sizes = Sizes(*(getattr(args, name) or value for name, value in DEFAULT_SIZES[device.type]._asdict().items()))
    console = Console()
    console.print(f"{device}, {torch.get_num_threads()} threads, precision auto: {best_precision(device.type)}")
    console.print(compare_speed(sizes, device, full=not args.late_fusion))
    console.print(compare_order(sizes, device))
    if args.whole or device.type == "cuda":
        seconds = time_whole(*CUHK_PEDES, device)
        console.print(f"whole evaluation, Vim-B at 224, {CUHK_PEDES[0]} images, {CUHK_PEDES[1]} captions: {seconds}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure")
    parser.add_argument("--memory", type=int, metavar="IMAGES", help="only store and re-rank so many made-up images")
    parser.add_argument("--whole", action="store_true", help="the whole evaluation on a CPU as well: many hours")
    parser.add_argument("--late-fusion", action="store_true", help="cross-attention in the upper half of layers only")
    for name in Sizes._fields:
        defaults = ", ".join(f"{kind} {getattr(sizes, name)}" for kind, sizes in DEFAULT_SIZES.items())
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, metavar="N", help=f"{MEANINGS[name]} (default: {defaults})")
    return parser.parse_args()


class Run(NamedTuple):
    scores: Tensor  # (captions, images), -inf where not scored
    seconds: float

    @property
    def pairs_per_second(self) -> float:
        return int((self.scores > -torch.inf).sum()) / self.seconds


def compare_speed(sizes: Sizes, device: torch.device, *, full: bool) -> Table:
    model = matching_model(BertSizes(), device, full=full)
    tokens, texts, similarity = random_gallery(sizes.gallery, TOKENS_PER_IMAGE)
    run_ours(model, tokens[:2], texts[:8], similarity[:8, :2], sizes.top_k, "fp32")  # warm-up
    asked = similarity[: sizes.plain_queries]
    plain = run_plain(model, tokens, texts[: len(asked)], asked, sizes.top_k)
    same = run_ours(model, tokens, texts[: len(asked)], asked, sizes.top_k, "fp32")
    title = f"{sizes.gallery} images, {len(texts)} captions, mean {mean_length(texts):.1f} tokens, k = {sizes.top_k}"
    table = Table("re-ranking", "pairs", "seconds", "pairs/s", "times plain", title=title, title_justify="left")
    runs = {"plain, fp32": plain}
    for precision in dict.fromkeys(["fp32", best_precision(device.type)]):
        own = tokens[: sizes.images]
        runs[f"ours, {precision}"] = run_ours(model, own, texts, similarity, sizes.top_k, precision)
    for name, run in runs.items():
        ratio = run.pairs_per_second / plain.pairs_per_second
        pairs = round(run.pairs_per_second * run.seconds)
        table.add_row(name, f"{pairs}", f"{run.seconds:.1f}", f"{run.pairs_per_second:.1f}", f"{ratio:.1f}")
    table.caption = f"largest difference of ours, fp32, to plain: {largest_difference(same, plain):.1e}; " + (
        "same order" if torch.equal(order(same), order(plain)) else "ORDER DIFFERS"
    )
    return table


def compare_order(sizes: Sizes, device: torch.device) -> Table:
    model = matching_model(NARROW, device)
    tokens, texts, similarity = random_gallery(sizes.small_gallery, TOKENS_PER_IMAGE)
    plain = run_plain(model, tokens, texts, similarity, sizes.top_k)
    names = ("compared with plain, fp32", "largest difference", "first 1", "first 5", "first 10", "order of all")
    pairs = int((plain.scores > -torch.inf).sum())
    title = f"narrow model, {pairs} pairs, standard deviation of scores {spread(plain):.2f}"
    table = Table(*names, title=title, title_justify="left")
    for precision in ("fp32", "bf16"):
        ours = run_ours(model, tokens, texts, similarity, sizes.top_k, precision)
        first = order(plain)[:, :1]
        shares = [(order(ours)[:, :k] == first).any(dim=1).double().mean() for k in (1, 5, 10)]
        shares.append((order(ours) == order(plain)).all(dim=1).double().mean())
        values = (f"{100 * share:.1f} %" for share in shares)
        table.add_row(f"ours, {precision}", f"{largest_difference(ours, plain):.1e}", *values)
    return table


def random_gallery(num_images: int, num_tokens: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Image tokens on the CPU, twice as many captions, and their similarity."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(num_images, num_tokens, IMAGE_WIDTH, generator=generator)
    texts = captions(2 * num_images)
    return tokens, texts, torch.rand(len(texts), num_images, generator=generator)


def run_plain(model: PersonSearchModel, tokens: Tensor, texts: list[Tensor], similarity: Tensor, top_k: int) -> Run:
    candidates = similarity.topk(min(top_k, similarity.shape[1]), dim=1).indices
    begin = time.perf_counter()
    scores = plain_rerank(model, tokens, texts, candidates, max_words=MAX_WORDS)
    seconds = time.perf_counter() - begin
    return Run(torch.full_like(similarity, -torch.inf).scatter(1, candidates, scores), seconds)


def run_ours(
    model: PersonSearchModel, tokens: Tensor, texts: list[Tensor], similarity: Tensor, top_k: int, precision: str
) -> Run:
    """tokens: of the first images."""
    device = model.itm_head.weight.device
    with autocast(device, precision):
        store = TokenStore(len(tokens), device)
        store.append(tokens.to(device))
        begin = time.perf_counter()
        scores = rerank(model, store, texts, similarity, top_k=top_k)
    return Run(scores, time.perf_counter() - begin)


def largest_difference(ours: Run, plain: Run) -> float:
    scored = plain.scores > -torch.inf
    assert torch.equal(scored, ours.scores > -torch.inf)
    return float((ours.scores - plain.scores)[scored].abs().max())


def order(run: Run) -> Tensor:
    return run.scores.argsort(dim=1, descending=True, stable=True)


def spread(run: Run) -> float:
    return float(run.scores[run.scores > -torch.inf].std())


def mean_length(texts: list[Tensor]) -> float:
    return sum(map(len, texts)) / len(texts)


def time_whole(num_images: int, num_captions: int, device: torch.device) -> str:
    """Encoding and both stages, random weights and pictures, in the precision that `auto` picks; the second of two."""
    model, process = whole_model(device), Process(0, 1, 0, device)
    for images, texts in ((64, 64), (num_images, num_captions)):  # the first warms up
        own = loaders(images, texts, batch_size=64, workers=0 if device.type == "cpu" else 8)
        begin = time.perf_counter()
        stages = score_gallery(model, *own, process=process, precision="auto", rerank_top_k=128).seconds
        seconds = time.perf_counter() - begin
    return f"{seconds:.1f} s (" + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()) + ")"


def show_memory(num_images: int) -> None:
    """Peak memory of keeping and re-ranking so many images of 384 px in bf16, by a narrow model: see the module."""
    model, batch = matching_model(NARROW, torch.device("cpu")), 64
    noise = torch.randn(batch, LARGE_IMAGE_TOKENS, IMAGE_WIDTH)
    texts = captions(max(1, num_images // 64))
    similarity = torch.rand(len(texts), num_images)
    before = peak_gib()
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        store = TokenStore(num_images, torch.device("cpu"))
        for first in range(0, num_images, batch):
            store.append(noise[: num_images - first] + first / num_images)
        stored = time.perf_counter()
        scores = rerank(model, store, texts, similarity, top_k=128)
    done = time.perf_counter()
    place = "a temporary file" if store.place == "file" else "memory"
    size = num_images * noise[0].numel() * 2 / 2**30
    Console().print(
        f"{num_images} images x {LARGE_IMAGE_TOKENS} tokens in bf16, {size:.1f} GiB in {place}: stored in "
        f"{stored - begin:.0f} s, {int((scores > -torch.inf).sum())} pairs re-ranked in {done - stored:.0f} s, "
        f"peak memory {peak_gib():.2f} GiB ({before:.2f} before)"
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
