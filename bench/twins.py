"""Three image encoders of one width and depth: Vim, Vim with registers and ViT, trained alike from random weights.

    python -m bench.twins --steps 650                 all runs; say it again to go on after a stop
    python -m bench.twins --only vim vit --seeds 1

Each learns the contrastive loss alone on the demo's people, the cheapest way to compare encoders, and is measured on
the 300 people of bench.ablations by similarity. Columns, in percent: R@1, mAP, and large norms, the share of patch
tokens whose norm before the final normalisation is above 5 times the median. Large norms in empty background are the
artefacts that registers are for (arXiv:2309.16588, arXiv:2405.14858).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from bench.ablations import PRETRAINING, add_test_data, config_of, draw_people, load_model, retrieval_of
from bench.outcomes import Outcome
from bench.trainings import Plan, Variant, add_arguments, chosen, run_all
from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from models.person_search import PersonSearchModel
from models.vision_transformer import VisionTransformer
from training.checkpoint import LAST
from utils.config import load_config
from utils.distributed import start
from utils.log import one_line_errors

VIM, VIT = Path("configs/demo_from_scratch.yaml"), Path("configs/demo_vit.yaml")
REGISTERS = 4
TIMES_THE_MEDIAN = 5
COLUMNS = ("R@1", "mAP", "large norms")
OTHER_LOSSES = ("itm", "prd", "mlm", "mrtd", "mae", "attribute")
SETTINGS = tuple(f"losses.weights.{loss}=0" for loss in OTHER_LOSSES)
VARIANTS = (
    Variant("vim", VIM, SETTINGS),
    Variant("vim-registers", VIM, (*SETTINGS, f"model.image_encoder.registers={REGISTERS}")),
    Variant("vit", VIT, SETTINGS),
)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, folder="output/twins", steps=650)
    add_test_data(parser)
    args = parser.parse_args(arguments)
    people = draw_people(args.test_data, apart_from=[load_config(VIM).dataset.folder, PRETRAINING])

    def measured(folder: Path) -> Outcome:
        return measure(folder, args.test_data)

    run_all(Plan(chosen(VARIANTS, args.only), args.seeds, args.steps, args.output, COLUMNS, measured, people))


def measure(folder: Path, test_data: Path) -> Outcome:
    """Measure a run on the test people of a folder, by similarity."""
    config = config_of(folder, test_data, rerank_top_k=0)
    process, tokenizer = start(), load_tokenizer(config.model.text_encoder.name)
    loaders = eval_loaders_of(config, tokenizer, process, "test")
    model = load_model(config, folder / LAST, process)
    people = retrieval_of(model, config, loaders, process)
    del people["R@1 similarity"]  # nothing was re-ranked, so both are the same
    values = {column: float(of_people.mean()) for column, of_people in people.items()}
    return Outcome({**values, "large norms": 100 * share_of_large_norms(model, loaders.gallery)}, people)


def share_of_large_norms(model: PersonSearchModel, image_batches: DataLoader) -> float:
    """Share of patch tokens whose norm before the final normalisation is above TIMES_THE_MEDIAN times the median."""
    encoder: Any = model.image_encoder
    name = "norm" if isinstance(encoder, VisionTransformer) else "norm_f"
    final = getattr(encoder, name)
    setattr(encoder, name, nn.Identity())
    device = model.itm_head.weight.device
    with torch.inference_mode():
        norms = torch.cat(
            [encoder(model.normalize(batch.image.to(device))).patches.norm(dim=-1).flatten() for batch in image_batches]
        )
    setattr(encoder, name, final)
    return float((norms > TIMES_THE_MEDIAN * norms.median()).float().mean())


if __name__ == "__main__":
    sys.exit(main())
