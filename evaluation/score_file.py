"""scores.npz of eval.py --save-scores: every pair's scores. T captions, I images, in the order of the annotations."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.retrieval import Scores
from utils.errors import UserError
from utils.files import replacing

SCORE_NAMES = ("similarity", "scores", "text_person_ids", "image_person_ids", "image_paths")
CAPTIONS = "captions"  # the only one that files of earlier versions lack


def save_scores(path: Path, scores: Scores, image_paths: Sequence[str], captions: Sequence[str]) -> None:
    """similarity and scores (T, I) float32, the latter -inf where not re-ranked; person ids (T,), (I,); paths (I,);
    captions (T,), cleaned and cut as the model saw them."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            similarity=scores.similarity.numpy(),
            scores=scores.matching.numpy(),
            text_person_ids=scores.text_person_id.numpy(),
            image_person_ids=scores.image_person_id.numpy(),
            image_paths=np.array(image_paths),
            captions=np.array(captions),
        )


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name, captions where it has them. Raises: UserError if the file is missing or not such a file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run eval.py with --save-scores")
    try:
        with np.load(path) as file:
            return {name: file[name] for name in (*SCORE_NAMES, *({CAPTIONS} & set(file.files)))}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a file of eval.py --save-scores ({error})") from None
