"""Pictures of an evaluation for TensorBoard: which images are ranked first, and what the decoder rebuilds.

n examples, H W pixels. The examples are the same each time, so that TensorBoard's slider shows them improve.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dataset.batches import collate, to_device
from dataset.texts import Texts
from evaluation.metrics import rank_gallery
from evaluation.retrieval import Scores
from losses.mae import KeptPatches, draw_kept_patches
from models.person_search import PersonSearchModel
from training.run import Run
from training.state import TrainState
from utils.precision import autocast

NUM_EXAMPLES = 4
NUM_RANKED = 8
FRAME_PX = 3
RIGHT, WRONG = (0, 160, 60), (200, 30, 30)


def show_examples(state: TrainState, scores: Scores, run: Run) -> None:
    """Write both pictures at the present step. scores: of the evaluation that was just done."""
    if not run.process.is_main:
        return
    images, captions = run.eval_loaders.sets
    rows = torch.linspace(0, len(captions) - 1, min(NUM_EXAMPLES, len(captions))).long()
    order = rank_gallery(scores.similarity[rows], scores.matching[rows], run.config.eval.tail)[:, :NUM_RANKED]
    right = scores.image_person_id[order] == scores.text_person_id[rows, None]
    texts = "\n".join(f"{number}. {captions.texts[row]}" for number, row in enumerate(rows.tolist(), 1))
    ranked = [torch.stack([images[int(place)].image for place in places]) for places in order]
    run.log.write_image("retrievals", ranking(ranked, right), state.step)
    run.log.write_text(
        "retrievals", f"One row per caption, best first; green: the right person.\n\n{texts}", state.step
    )
    if "decoder" not in state.model.heads:
        return
    own = (scores.text_person_id[rows, None] == scores.image_person_id).int().argmax(dim=1)  # each caption's image
    pixels = torch.stack([images[int(place)].image for place in own]).to(run.process.device)
    tokens = to_device(collate([captions[row] for row in rows.tolist()]).text, run.process.device)
    with autocast(run.process.device, run.config.train.precision):
        rebuilt = reconstruction(state.model, pixels, tokens, run.config.model.mask_ratio)
    run.log.write_image("reconstruction", rebuilt, state.step)


def ranking(rows: list[Tensor], right: Tensor) -> Tensor:
    """One picture (3, h, w) uint8 of n rows of images, each (k, 3, H, W) uint8, in green frames if right, else in red.

    Args: right (n, k) bool.
    """
    framed = []
    for images, correct in zip(rows, right.tolist(), strict=True):
        colours = torch.tensor([RIGHT if is_right else WRONG for is_right in correct], dtype=torch.uint8)
        frames = colours[:, :, None, None].expand(
            -1, -1, images.shape[2] + 2 * FRAME_PX, images.shape[3] + 2 * FRAME_PX
        )
        frames = frames.clone()
        frames[:, :, FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = images
        framed.append(_side_by_side(F.pad(frames, (1, 1, 1, 1), value=255)))
    return torch.cat(framed, dim=1)


def reconstruction(model: PersonSearchModel, images: Tensor, tokens: Texts, mask_ratio: float) -> Tensor:
    """Each image, what the masked pass sees of it, and what the decoder rebuilds: (3, n * H, 3 * W) uint8.

    Args: images (n, 3, H, W) uint8, tokens of their captions (n, L).
    """
    from figures.mae import rebuild  # imports matplotlib, which only the main process needs

    was_training = model.training
    model.eval()
    generator = torch.Generator(images.device).manual_seed(0)  # leaves training's own draws alone
    num_patches = model.image_encoder.num_patches
    drawn = draw_kept_patches(len(images), num_patches, mask_ratio, device=images.device, generator=generator)
    rows = []
    for row, length in enumerate(tokens.attention_mask.sum(dim=1).tolist()):
        kept = KeptPatches(*(field[row : row + 1] for field in drawn))
        one = rebuild(model, images[row : row + 1], tokens.input_ids[row : row + 1, :length], kept)
        rows.append(np.concatenate([one.image, one.masked, one.rebuilt], axis=1))  # (H, 3 * W, 3) in [0, 1]
    model.train(was_training)
    return torch.from_numpy(np.concatenate(rows) * 255).round().to(torch.uint8).permute(2, 0, 1)


def _side_by_side(images: Tensor) -> Tensor:
    """(k, 3, H, W) -> (3, H, k * W)."""
    return torch.cat(list(images), dim=2)
