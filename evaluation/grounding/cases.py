"""What is known about each caption of a drawn split: its picture, the boxes of parts, and the words that name them."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from dataset.captions import clean_caption
from dataset.sets import EvalSets
from dataset.synthpedes.files import people_of
from dataset.synthpedes.naming import Caption, read_marks, write_marks
from dataset.synthpedes.parts import Part
from dataset.synthpedes.people import Person
from dataset.synthpedes.shown import FILE, read_shown
from utils.config_schema import Config
from utils.errors import UserError


class Case(NamedTuple):
    """A caption with the picture for which it was written."""

    number: int  # row of the caption in the split
    image_row: int  # of the gallery
    person_id: int  # as in the annotations
    person: Person
    caption: Caption  # cleaned, and cut like the model's captions
    parts: dict[str, Part]  # of the picture


def load_cases(config: Config, sets: EvalSets) -> list[Case]:
    """All captions of a split of the configuration's data, in the order of its rows.

    Raises: UserError if the data were not drawn by SynthPedes, or if the annotations were changed since.
    """
    root = config.dataset.folder
    people, pictures = people_of(root), read_shown(root)
    cases: list[Case] = []
    for row, path in enumerate(sets.gallery.paths):
        shown = pictures.get(path)
        if shown is None:
            raise UserError(f"{root / FILE} has no picture {path}: draw and prepare the data anew")
        for caption in shown.captions:
            cleaned = read_marks(clean_caption(write_marks(*caption), config.dataset.max_words))
            person_id = int(sets.gallery.person_id[row])
            cases.append(Case(len(cases), row, person_id, people[shown.person_id], cleaned, shown.parts))
    if [case.caption.text for case in cases] != sets.captions.texts:
        raise UserError(f"{root / FILE} tells of other captions than the annotations: draw and prepare the data anew")
    return cases


def some_of(cases: list[Case], number: int | None) -> list[Case]:
    """So many of the cases, evenly spread, and so over all people; None = all.

    Raises: UserError if number is below 1.
    """
    if number is None or number >= len(cases):
        return cases
    if number < 1:
        raise UserError(f"--grounding-captions must be at least 1, not {number}")
    return [cases[row * len(cases) // number] for row in range(number)]


def by_image(cases: list[Case]) -> Iterator[tuple[int, list[Case]]]:
    """Gallery rows with their cases."""
    for row, own in groupby(cases, key=lambda case: case.image_row):
        yield row, list(own)
