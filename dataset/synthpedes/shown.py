"""parts.json of a SynthPedes: what each picture shows, where, and which words of its captions name it.

    {IMAGE: {"id": 7, "shows": ["gender", "upper", ...], "parts": {"upper": [left, top, right, bottom, share], ...},
             "captions": [{"text": ..., "names": [[attribute, part, first character, last + 1], ...]}, ...]}, ...}

Boxes and shares are fractions of the picture (`parts.Part`); "shows" lists attributes of the person (`people.Person`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dataset.synthpedes.naming import Caption, Naming
from dataset.synthpedes.parts import Part
from utils.errors import UserError
from utils.files import replacing

FILE = "parts.json"


class Shown(NamedTuple):
    """What a picture shows, and what its captions name."""

    person_id: int
    attributes: list[str]  # of the person, as far as the view shows them
    parts: dict[str, Part]
    captions: list[Caption]


def write_shown(root: Path, pictures: Mapping[str, Shown]) -> None:
    """pictures: by their paths under imgs/."""
    with replacing(root / FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump({path: _entry(shown) for path, shown in pictures.items()}, file, separators=(",", ":"))


def _entry(shown: Shown) -> dict[str, object]:
    return {
        "id": shown.person_id,
        "shows": shown.attributes,
        "parts": {name: [*part.box, part.share] for name, part in shown.parts.items()},
        "captions": [caption._asdict() for caption in shown.captions],
    }


def read_shown(root: Path) -> dict[str, Shown]:
    """Read what `write_shown` wrote. Raises: UserError if the folder lacks the file or if it is damaged."""
    path = root / FILE
    if not path.is_file():
        raise UserError(
            f"{root} has no {FILE}, which only drawn pedestrians have: the command python -m dataset.synthpedes that "
            "drew them adds it to an older folder"
        )
    try:
        return {image: _shown(entry) for image, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is damaged: delete it and draw it anew with python -m dataset.synthpedes") from None


def _shown(entry: dict) -> Shown:
    parts = {name: Part(tuple(box), share) for name, (*box, share) in entry["parts"].items()}
    captions = [Caption(one["text"], [Naming(*name) for name in one["names"]]) for one in entry["captions"]]
    return Shown(entry["id"], entry["shows"], parts, captions)
