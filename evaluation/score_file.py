"""scores.npz, which eval.py --save-scores writes: the scores of every pair. T captions, I images, as annotated."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.retrieval import Scores
from utils.errors import UserError
from utils.files import replacing

SCORE_NAMES = ("similarity", "scores", "text_person_ids", "image_person_ids", "image_paths")
CAPTIONS = "captions"  # the only array that files of earlier versions lack


def score_arrays(scores: Scores, image_paths: Sequence[str], captions: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of scores.npz by name.

    Returns: similarity and scores (T, I) float32, the latter -inf where a pair was not re-ranked; text_person_ids (T,);
        image_person_ids (I,); image_paths (I,); captions (T,), cleaned and cut as the model saw them.
    """
    return {
        "similarity": scores.similarity.numpy(),
        "scores": scores.matching.numpy(),
        "text_person_ids": scores.text_person_id.numpy(),
        "image_person_ids": scores.image_person_id.numpy(),
        "image_paths": np.array(image_paths),
        CAPTIONS: np.array(captions),
    }


def save_scores(path: Path, scores: Scores, image_paths: Sequence[str], captions: Sequence[str]) -> None:
    """Write the compressed arrays of `score_arrays`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        arrays = score_arrays(scores, image_paths, captions)
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its own keyword is a bool


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """The arrays of `score_arrays` by name; captions only if the file has them.

    Raises: UserError if the file is missing or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: run eval.py with --save-scores")
    try:
        with np.load(path) as file:
            return {name: file[name] for name in (*SCORE_NAMES, *({CAPTIONS} & set(file.files)))}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a file of eval.py --save-scores ({error})") from None
