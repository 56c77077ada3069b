"""Memory of evaluating a large gallery of made-up data: image tokens, scores of every pair, measures.

There are as many captions as images, as in ICFG-PEDES. To finish within minutes, a narrow model re-ranks the candidates
of a part of the captions; everything else has its full size. What BERT base would need in addition is calculated, not
measured.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from bench.rerank_cases import IMAGE_WIDTH, NARROW, captions, matching_model
from evaluation.report import make_report
from evaluation.rerank import BLOCK_BYTES, rerank, top_candidates
from evaluation.retrieval import Scores
from evaluation.token_store import TokenStore
from models.bert_layers import BertSizes

IMAGE_TOKENS = 577  # 384 px
TOP_K = 128
EMBEDDING = 256
IMAGES_PER_PERSON = 20
BATCH = 64


def show_memory(num_images: int, num_reranked: int) -> None:
    """Print the peak after each stage and the number of pairs scored. num_reranked: captions that are re-ranked."""
    model, console = matching_model(NARROW, torch.device("cpu")), Console(highlight=False)
    noise = torch.randn(BATCH, IMAGE_TOKENS, IMAGE_WIDTH)
    texts, num_reranked = captions(num_images), min(num_reranked, num_images)
    console.print(f"{num_images} images, {num_images} captions; peak memory before: {peak_gib():.2f} GiB")

    @contextmanager
    def stage(what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        console.print(f"{what}: {time.perf_counter() - begin:.0f} s, peak memory {peak_gib():.2f} GiB")

    with torch.autocast("cpu", torch.bfloat16):
        store = TokenStore(num_images, torch.device("cpu"))
        with stage(f"image tokens stored, {IMAGE_TOKENS} each"):
            for first in range(0, num_images, BATCH):
                store.append(noise[: num_images - first] + first / num_images)
        size = num_images * store.shape.numel() * store.dtype.itemsize / 2**30
        console.print(f"  {size:.1f} GiB in {'a temporary file' if store.place == 'file' else 'memory'}")
    with stage("similarity of every pair"):
        embedding = torch.nn.functional.normalize(torch.randn(num_images, EMBEDDING), dim=1)
        similarity = embedding @ embedding.T
    with stage(f"first {TOP_K} images of every caption"):
        num_pairs = top_candidates(similarity, TOP_K).numel()
    with torch.autocast("cpu", torch.bfloat16), stage(f"candidates of {num_reranked} captions re-ranked"):
        scores = torch.full_like(similarity, -torch.inf)
        rows = slice(0, num_reranked)
        scores[rows] = rerank(model, store, texts[rows], similarity[rows], top_k=TOP_K)
    done = int((scores[rows] > -torch.inf).sum())
    person_id = torch.arange(num_images) // IMAGES_PER_PERSON
    with stage("measures in both directions, with intervals"):
        make_report(Scores(similarity, scores, person_id, person_id, {}), "similarity")
    console.print(f"peak memory {peak_gib():.2f} GiB; {done} of {num_pairs} pairs scored")
    states, block = sum(map(len, texts)) * BertSizes().hidden_size * 2 / 2**30, BLOCK_BYTES["cpu"] / 2**30
    console.print(
        f"BERT base has {states:.1f} GiB of caption states and up to {block:.1f} GiB of keys and values beside it"
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
