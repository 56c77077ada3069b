"""What the second stage needs per image: python -m bench.tokens CHECKPOINT DATA [--candidates 128]

DATA is a prepared folder of SynthPedes. Ways to give the matching head the tokens of a query's candidates: kept in half
precision, kept in fewer bits (one scale per token), or encoded again from the files. Measured: bytes per image, the
processor time of a query, how far the logits move, and R@1 of the ranking.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.query_gallery import Drawn, first
from bench.rows import Rows
from dataset.images import read_image
from dataset.records import read_records
from gallery.encoding.chunks import no_chunks

CAPTIONS = 20
Way = Callable[[np.ndarray], Tensor]  # rows of the candidates (k,) -> tokens (k, K, D)


def in_bits(tokens: Tensor, bits: int) -> Tensor:
    """Tokens (N, K, D) rounded to signed integers of so many bits, each token divided by its own largest value."""
    most = 2 ** (bits - 1) - 1
    scale = tokens.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / most
    return (tokens / scale).round() * scale


def encoded_again(drawn: Drawn, data: Path, split: str) -> Way:
    paths = [data / "imgs" / record.file_path for record in read_records(data, split)]

    def tokens(rows: np.ndarray) -> Tensor:
        pixels = torch.stack([read_image(paths[row], drawn.encoder.image_size) for row in rows])
        return drawn.encoder.images(pixels).tokens.float()

    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--candidates", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    drawn = Drawn(args.checkpoint, args.data, args.split)
    captions = drawn.captions(CAPTIONS)
    sentences = drawn.sentences([caption.text for caption in captions])
    found = [first(drawn.vectors @ sentence.vector, args.candidates) for sentence in sentences]
    _, count, width = drawn.tokens.shape
    kept = {"float16": drawn.tokens.half(), "8 bits": in_bits(drawn.tokens, 8), "4 bits": in_bits(drawn.tokens, 4)}
    sizes = {"float16": 2 * count * width, "8 bits": count * (width + 2), "4 bits": count * (width // 2 + 2)}
    ways: dict[str, Way] = {name: lambda rows, own=own: own[rows].float() for name, own in kept.items()}  # type: ignore[misc]
    ways["encoded again"] = encoded_again(drawn, args.data, args.split)
    rows = Rows({"tokens": 14}, ("bytes", "ms/query", "logit moves", "R@1, %"), title=f"{count} x {width} tokens")
    exact: list[np.ndarray] = []
    for name, tokens in ways.items():
        begin, logits = time.process_time(), []
        for sentence, candidates in zip(sentences, found, strict=True):
            logits.append(drawn.encoder.match(sentence, no_chunks(sentence.encoded), tokens(candidates)).scores.numpy())
        seconds = (time.process_time() - begin) / len(sentences)
        exact = exact or logits
        moves = np.mean([np.abs(own - other).mean() for own, other in zip(logits, exact, strict=True)])
        right = [
            drawn.person_id[candidates[own.argmax()]] == caption.person_id
            for own, candidates, caption in zip(logits, found, captions, strict=True)
        ]
        rows.add(name, f"{sizes.get(name, 0):,}", f"{1e3 * seconds:.0f}", f"{moves:.4f}", f"{100 * np.mean(right):.1f}")


if __name__ == "__main__":
    main()
