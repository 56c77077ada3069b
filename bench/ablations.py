"""What each loss is worth: the demo's model from its pretrained start, without one of them at a time.

    python -m bench.ablations                         all runs: hours on two cores; say it again to go on after a stop
    python -m bench.ablations --only all-losses no-prd --seeds 1 --steps 200

Every run has the same number of steps and the same batches. It is measured on 300 drawn people whom the model has never
seen; they are drawn on the first call. Columns, in percent: R@1 by similarity and re-ranked, mAP re-ranked, and, on one
caption of each person, pointing accuracy by attention and by evidence, its chance, and AUC of chunk scores
(docs/evaluation.md, "Grounding").
"as-published" rewrites captions for their own image, and its attribute loss has whole pairs alone. So has that of
"no-mrtd", where no caption is rewritten.
Rows come as soon as they are measured. At the end: means, and differences from "all-losses", with their
deviations between seeds and intervals over people.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.outcomes import Outcome, from_wins
from bench.trainings import Plan, Variant, add_arguments, chosen, run_all
from dataset.loaders import EvalLoaders
from dataset.prepare import main as prepare
from dataset.run_loaders import eval_loaders_of
from dataset.synthpedes.files import NOTE, digest, people_of
from dataset.synthpedes.generate import generate
from dataset.tokenizer import load_tokenizer
from evaluation.grounding.cases import load_cases, some_of
from evaluation.grounding.chunk_scores import wins_of
from evaluation.grounding.measures import look
from evaluation.grounding.people import area_under_curve, person_means
from evaluation.metrics import measure_queries, percentages
from evaluation.retrieval import score_gallery
from models.build import build_model
from models.person_search import PersonSearchModel
from models.weights import check_complete, initialise
from training.checkpoint import LAST
from utils.config import Config, load_config
from utils.distributed import Process, start
from utils.errors import UserError
from utils.log import one_line_errors
from utils.pretrained import bert_config

DEMO = Path("configs/demo.yaml")
PRETRAINING = Path("data/synthpedes_pretrain")  # the people that the start has seen
TEST_DATA = Path("data/synthpedes_ablations")
PEOPLE, SEED, TOP_K = 300, 2, 16
GROUNDING_CAPTIONS = 300  # of 600, one of each person: pointing takes most of the time
COLUMNS = ("R@1 similarity", "R@1", "mAP", "attention", "evidence", "chance", "chunk AUC")
LOSSES = ("prd", "mlm", "mrtd", "mae", "attribute")
AS_PUBLISHED = ("losses.mrtd_other_image=false", "losses.attribute_replaced=false")


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, folder="output/ablations", steps=108)
    parser.add_argument("--config", type=Path, default=DEMO, help="of the whole model (default: %(default)s)")
    add_test_data(parser)
    args = parser.parse_args(arguments)
    variants = chosen(variants_of(args.config), args.only)
    people = draw_people(args.test_data, apart_from=[load_config(args.config).dataset.folder, PRETRAINING])

    def measured(folder: Path) -> Outcome:
        return measure(folder, args.test_data)

    run_all(Plan(variants, args.seeds, args.steps, args.output, COLUMNS, measured, people))


def variants_of(config: Path) -> list[Variant]:
    """The whole model, the model without each loss, and with cross-attention in the upper layers only."""
    whole = load_config(config)
    text, own_chunks = whole.model.text_encoder, ("losses.attribute_replaced=false",)
    layers = text.num_hidden_layers or bert_config(text.name)["num_hidden_layers"]
    upper = text.fusion_layer if text.fusion_layer < layers else layers // 2  # then the text encoder is shorter as well
    upper_half = (f"model.text_encoder.fusion_layer={upper}", "model.text_encoder.full_cross_attention=false")
    return [
        Variant("all-losses", config),
        *(
            Variant(f"no-{loss}", config, (f"losses.weights.{loss}=0", *(own_chunks if loss == "mrtd" else ())))
            for loss in LOSSES
        ),
        *([Variant("as-published", config, AS_PUBLISHED)] if whole.losses.attribute_replaced else []),
        Variant("upper-half", config, upper_half),
    ]


def add_test_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test-data", type=Path, default=TEST_DATA, help="drawn if not there (default: %(default)s)")


def draw_people(folder: Path, apart_from: Sequence[Path]) -> str:
    """Draw and prepare the test people unless they are there. They are none of the other folders'.

    Returns: their digest.
    Raises: UserError if another folder is missing, or if this one holds people drawn apart from others.
    """
    if not all((other / NOTE).is_file() for other in apart_from):
        names = " and ".join(map(str, apart_from))
        raise UserError(f"{names} must be there, as their people are left out: bash shell/pretrain.sh --only-draw")
    generate(
        folder,
        benchmark="CUHK-PEDES",
        people={"train": 1, "test": PEOPLE},  # a benchmark without any train person is refused
        images_per_person=2,
        captions_per_image=1,
        seed=SEED,
        size_px=(128, 64),
        workers=1,
        apart_from=apart_from,
    )
    if not (folder / "processed_data").is_dir():
        prepare(["CUHK-PEDES", str(folder)])
    return digest(people_of(folder))


def measure(folder: Path, test_data: Path) -> Outcome:
    """Measure a run on the test people of a folder."""
    config = config_of(folder, test_data, TOP_K)
    process, tokenizer = start(), load_tokenizer(config.model.text_encoder.name)
    loaders = eval_loaders_of(config, tokenizer, process, "test")
    model = load_model(config, folder / LAST, process)
    people = retrieval_of(model, config, loaders, process)
    cases = some_of(load_cases(config, loaders.sets), GROUNDING_CAPTIONS)
    seen = look(model, cases, loaders.gallery, tokenizer, config)
    for column, words in (("attention", seen.attention), ("evidence", seen.evidence)):
        if words:  # no evidence without mlm
            scores = np.array([[100 * word.score, 100 * word.chance] for word in words])
            means = person_means(scores, np.array([word.person_id for word in words]))
            people |= {column: means[:, 0], "chance": means[:, 1]}
    wins = wins_of(seen.scored)
    values = {column: float(of_people.mean()) for column, of_people in people.items()}
    values |= {"chunk AUC": 100 * area_under_curve(wins).value}
    people["chunk AUC"] = from_wins(wins._replace(wins=100 * wins.wins))
    return Outcome({column: values.get(column, float("nan")) for column in COLUMNS}, people)


def config_of(folder: Path, test_data: Path, rerank_top_k: int) -> Config:
    """The configuration of a run, with other data to be evaluated on."""
    data = ["dataset.name=CUHK-PEDES", f"dataset.root={test_data}"]
    return load_config(folder / "config.yaml", [*data, f"eval.rerank_top_k={rerank_top_k}"])


def load_model(config: Config, checkpoint: Path, process: Process) -> PersonSearchModel:
    model = build_model(config)
    check_complete(model, initialise(model, checkpoint))
    return model.to(process.device).eval()


def retrieval_of(
    model: PersonSearchModel, config: Config, loaders: EvalLoaders, process: Process
) -> dict[str, np.ndarray]:
    """R@1 in both orders and mAP re-ranked, of each person."""
    scores = score_gallery(
        model,
        *loaders,
        process=process,
        precision=config.train.precision,
        rerank_top_k=config.eval.rerank_top_k,
        rerank_similarity=config.eval.rerank_similarity,
    )
    ids = (scores.text_person_id, scores.image_person_id)
    person_id = scores.text_person_id.numpy()
    similarity, reranked = (
        person_means(percentages(measure_queries(scores.similarity, matching, *ids)).numpy(), person_id)
        for matching in (None, scores.matching)
    )
    return {"R@1 similarity": similarity[:, 0], "R@1": reranked[:, 0], "mAP": reranked[:, 3]}


if __name__ == "__main__":
    sys.exit(main())
