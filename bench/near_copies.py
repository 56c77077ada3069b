"""How alike a model finds crops of one person and of two: python -m bench.near_copies --checkpoint output/demo/best.pth

Draws footage of several people (SynthPedes), cuts them out by their true boxes and compares all pairs of crops of each
video. A search folds images beyond gallery.search.groups.NEAR_COPY into one result: nearly no pair of two people should
be there, and many pairs of one person moments apart should.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.rows import Rows
from dataset.synthpedes.footage import compose, draw_frame
from gallery.encoding.checkpoints import config_of
from gallery.encoding.encoder import Encoder, pixels_of
from gallery.search.groups import NEAR_COPY
from utils.pretrained import find_weights

SIZE, FPS, PEOPLE = (640, 360), 10, 6
LEAST_IN_VIEW, LEAST_HEIGHT = 0.5, 60  # of a crop that is compared: share of the person, pixels
GAPS_S = (0.1, 0.5, 1.0)  # between two crops of one person
THRESHOLDS = (0.9, 0.95, 0.97, NEAR_COPY, 0.99)
IMAGES_AT_A_TIME = 64


class Crops(NamedTuple):
    """n crops of one video."""

    vectors: np.ndarray  # (n, E), of length 1
    person: np.ndarray  # (n,)
    frame: np.ndarray  # (n,)


class Pairs(NamedTuple):
    """Similarities of pairs of crops."""

    two_people: np.ndarray
    one_person: dict[float, np.ndarray]  # by the seconds between the two


def pairs_of(crops: Crops) -> Pairs:
    similarity = crops.vectors @ crops.vectors.T
    same = crops.person[:, None] == crops.person[None, :]
    later = crops.frame[None, :] - crops.frame[:, None]
    first = np.triu(np.ones_like(same), 1)  # each pair once
    return Pairs(
        similarity[~same & first],
        {gap: similarity[same & (later == round(gap * FPS))] for gap in GAPS_S},
    )


def crops_of(encoder: Encoder, seconds: float, seed: int) -> Crops:
    pictures, people, frames = [], [], []
    for person, frame, pixels in _drawn(encoder.image_size, seconds, seed):
        people.append(person)
        frames.append(frame)
        pictures.append(pixels)
    parts = [pictures[start : start + IMAGES_AT_A_TIME] for start in range(0, len(pictures), IMAGES_AT_A_TIME)]
    vectors = np.concatenate([encoder.images(torch.stack(part)).vectors for part in parts])
    return Crops(vectors, np.array(people), np.array(frames))


def _drawn(size: tuple[int, int], seconds: float, seed: int) -> Iterator[tuple[int, int, Tensor]]:
    """Person, frame and pixels of each crop."""
    footage = compose(size=SIZE, fps=FPS, seconds=seconds, people=PEOPLE, scene="street", seed=seed)
    for number in range(footage.frames):
        pixels, boxes = draw_frame(footage, number)
        for box in boxes:
            if box.in_view > LEAST_IN_VIEW and box.box[3] - box.box[1] >= LEAST_HEIGHT:
                yield box.person, number, pixels_of(Image.fromarray(pixels).crop(box.box), size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", required=True, metavar="PATH")
    parser.add_argument("--config", type=Path, help="its configuration, where the checkpoint does not hold it")
    parser.add_argument("--seconds", type=float, default=12, help="of each video")
    parser.add_argument("--videos", type=int, default=3)
    args = parser.parse_args(arguments)
    checkpoint = find_weights(args.checkpoint)
    encoder = Encoder(checkpoint, config_of(checkpoint, args.config), torch.device("cpu"))
    found = [pairs_of(crops_of(encoder, args.seconds, seed)) for seed in range(args.videos)]
    two_people = np.concatenate([pairs.two_people for pairs in found])
    rows = Rows({"pairs": 10}, ("of two people", *(f"one person, {gap} s apart" for gap in GAPS_S)))
    rows.add(
        "all", f"{len(two_people):,}", *(f"{sum(len(pairs.one_person[gap]) for pairs in found):,}" for gap in GAPS_S)
    )
    for threshold in THRESHOLDS:
        shares = [np.concatenate([pairs.one_person[gap] for pairs in found]) >= threshold for gap in GAPS_S]
        rows.add(
            f">= {threshold}", f"{(two_people >= threshold).sum():,}", *(f"{share.mean():.1%}" for share in shares)
        )
    print(f"largest similarity of two people: {two_people.max():.3f}")


if __name__ == "__main__":
    main()
