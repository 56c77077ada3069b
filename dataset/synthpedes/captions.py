"""Captions of drawn pedestrians in the style of CUHK-PEDES: synonyms, varied order, some attributes left out.

A caption mentions only what its view shows (`visible_attributes` in views.py). It never names a bag hidden by the body
or shoes behind a hedge.
"""

from random import Random
from typing import NamedTuple

from dataset.synthpedes.people import NONE, Person, pick
from dataset.synthpedes.views import CameraView, visible_attributes

_KEEP = {  # probability of mentioning something visible
    "upper": 0.96, "lower": 0.95, "hair": 0.42, "shoes": 0.42, "bag": 0.85, "carried": 0.8, "hat": 0.8,
    "glasses": 0.5, "beard": 0.5, "scarf_colour": 0.7,
}  # fmt: skip
_SUBJECTS: dict[tuple[str, str], dict[str, float]] = {
    ("male", "adult"): {"man": 8, "young man": 3, "guy": 1, "male": 1, "gentleman": 0.5},
    ("male", "elderly"): {"elderly man": 3, "old man": 3, "older man": 2, "older gentleman": 1},
    ("male", "child"): {"boy": 3, "little boy": 3, "young boy": 3},
    ("female", "adult"): {"woman": 8, "young woman": 3, "lady": 3, "female": 1},
    ("female", "elderly"): {"elderly woman": 3, "old woman": 2, "older woman": 2, "elderly lady": 2},
    ("female", "child"): {"girl": 3, "little girl": 3, "young girl": 3},
}
_COLOURS = {
    "navy": ["navy blue", "dark blue", "navy"],
    "light blue": ["light blue", "light blue", "pale blue", "sky blue"],
    "beige": ["beige", "tan", "khaki", "cream"],
    "purple": ["purple", "purple", "violet"],
}
_HAIR_COLOURS = {"black": ["black", "dark"], "red": ["red", "ginger"], "blonde": ["blonde", "blond"]}
_NOUNS = {
    "t-shirt": ["t-shirt", "t-shirt", "tee shirt", "T-shirt"],
    "shirt": ["shirt", "button-down shirt", "collared shirt"],
    "sweater": ["sweater", "sweater", "jumper", "pullover"],
    "hoodie": ["hoodie", "hoodie", "hooded sweatshirt"],
    "jacket": ["jacket"],
    "coat": ["coat", "overcoat"],
    "vest": ["vest", "padded vest", "sleeveless jacket"],
    "tank top": ["tank top", "sleeveless top"],
    "dress": ["dress"],
    "jeans": ["jeans", "jeans", "denim jeans"],
    "trousers": ["trousers", "pants", "pants", "slacks"],
    "leggings": ["leggings", "tights"],
    "shorts": ["shorts"],
    "sneakers": ["sneakers", "sneakers", "trainers", "sports shoes", "running shoes", "tennis shoes"],
    "leather shoes": ["leather shoes", "dress shoes", "shoes"],
    "boots": ["boots", "boots", "ankle-high boots"],
    "sandals": ["sandals"],
    "high heels": ["high heels", "heels", "high-heeled shoes"],
    "cap": ["cap", "baseball cap"],
    "beanie": ["beanie", "knitted hat", "woolly hat"],
    "sun hat": ["sun hat", "wide-brimmed hat", "hat"],
    "backpack": ["backpack", "backpack", "rucksack"],
    "handbag": ["handbag", "handbag", "purse"],
    "shoulder bag": ["shoulder bag", "crossbody bag", "messenger bag"],
    "phone": ["phone", "cell phone", "mobile phone"],
    "bottle": ["bottle", "water bottle", "bottle of water"],
    "umbrella": ["umbrella"],
    "shopping bag": ["shopping bag", "carrier bag"],
    "suitcase": ["suitcase", "rolling suitcase"],
    "book": ["book"],
    "glasses": ["glasses", "eyeglasses"],
    "sunglasses": ["sunglasses", "dark sunglasses"],
}


def article(phrase: str) -> str:
    """Put "a" or "an" before a phrase (none of our words starts with a silent h or a u as in "unit")."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def listing(items: list[str], oxford: bool) -> str:
    """Join phrases: "a, b and c"."""
    if len(items) < 3:
        return " and ".join(items)
    return f"{', '.join(items[:-1])}{',' if oxford else ''} and {items[-1]}"


def _colour(name: str, rng: Random) -> str:
    return rng.choice(_COLOURS.get(name, [name]))


def _noun(kind: str, rng: Random) -> str:
    return rng.choice(_NOUNS[kind])


def _upper(person: Person, shown: set[str], rng: Random) -> str:
    noun = _noun(person.upper, rng)
    if person.upper == "shirt" and person.gender == "female" and rng.random() < 0.5:
        noun = "blouse"
    colour, tail = _patterned(person, shown, rng)
    sleeve = {"long": "long-sleeved", "short": "short-sleeved", "none": "sleeveless"}[person.sleeves]
    telling = person.upper in ("shirt", "dress") or (person.upper == "t-shirt" and person.sleeves == "long")
    chance = 0.45 if telling else 0.15 if person.upper == "t-shirt" else 0.0
    words = [sleeve] if rng.random() < chance else []
    if "inner_colour" in shown:
        under = rng.choice(["shirt", "top", "t-shirt"]) if person.upper != "vest" else f"{sleeve} shirt"
        tail = f" over {article(f'{_colour(person.inner_colour, rng)} {under}')}"
        words = ["open"] if person.upper != "vest" and rng.random() < 0.3 else []
    return article(" ".join([*words, colour, noun])) + tail


def _patterned(person: Person, shown: set[str], rng: Random) -> tuple[str, str]:
    """Return the words before and after the noun of the upper garment."""
    colour = _colour(person.upper_colour, rng)
    if "pattern" not in shown or rng.random() < 0.1:
        return colour, ""
    second = _colour(person.pattern_colour, rng)
    if person.pattern == "logo":
        thing, place = rng.choice(["logo", "print", "design"]), rng.choice(["", "", " on the front", " on the chest"])
        return colour, f" with {article(f'{second} {thing}')}{place}"
    adjectives, marks = {
        "striped": (["striped"], ["stripes", "horizontal stripes"]),
        "checked": (["checked", "checkered", "plaid"], ["checks"]),
        "dotted": (["polka dot", "dotted"], ["dots", "polka dots"]),
    }[person.pattern]
    if rng.random() < 0.65:
        return f"{colour} and {second} {rng.choice(adjectives)}", ""
    return colour, f" with {second} {rng.choice(marks)}"


def _paired(colour: str, kind: str, rng: Random) -> str:
    """Name things that come in pairs: "blue jeans" or "a pair of blue jeans"."""
    phrase = f"{_colour(colour, rng)} {_noun(kind, rng)}"
    return f"a pair of {phrase}" if rng.random() < 0.25 else phrase


def _lower(person: Person, rng: Random) -> str:
    if "skirt" not in person.lower:
        return _paired(person.lower_colour, person.lower, rng)
    length = "long " if person.lower == "long skirt" else rng.choice(["", "short "])
    return article(f"{length}{_colour(person.lower_colour, rng)} skirt")


def _hair(person: Person, shown: set[str], rng: Random) -> str:
    if person.hair == "bald":
        return "a bald head"
    colour = rng.choice(_HAIR_COLOURS.get(person.hair_colour, [person.hair_colour]))
    if "hair" not in shown:
        return f"{colour} hair"
    if person.hair in ("ponytail", "bun"):
        tied = rng.choice(
            ["tied in", "pulled back in", "worn in"] if person.hair == "ponytail" else ["tied in", "up in"]
        )
        return f"{colour} hair {tied} a {person.hair}"
    return f"{person.hair} {colour} hair"


def _coloured(kind: str, colour: str, rng: Random) -> str:
    noun = _noun(kind, rng)
    return article(noun if colour == NONE else f"{_colour(colour, rng)} {noun}")


class Facts(NamedTuple):
    """The phrases of a caption; all but core may be empty."""

    has: list[str]  # "short black hair"
    core: list[str]  # upper and lower garment
    extra: list[str]  # shoes, hat, glasses, scarf
    does: list[str]  # "carrying a red handbag"


def _tell(person: Person, view: CameraView, rng: Random) -> Facts:
    """Choose what to mention, and the words for it."""
    shown = visible_attributes(person, view)
    told = {name for name, chance in _KEEP.items() if name in shown and rng.random() < chance}
    if "hair" not in shown and "hair_colour" in shown and rng.random() < _KEEP["hair"]:
        told.add("hair")  # its colour only
    if not told & {"upper", "lower"}:
        told.add("upper")
    has = [_hair(person, shown, rng)] if "hair" in told else []
    has += ["a beard"] if "beard" in told else []
    core = [_upper(person, shown, rng)] if "upper" in told else []
    core += [_lower(person, rng)] if "lower" in told else []
    extra = [_paired(person.shoe_colour, person.shoes, rng)] if "shoes" in told else []
    extra += [_coloured(person.hat, person.hat_colour, rng)] if "hat" in told else []
    extra += [rng.choice(["", "a pair of "]) + _noun(person.glasses, rng)] if "glasses" in told else []
    extra += [article(f"{_colour(person.scarf_colour, rng)} scarf")] if "scarf_colour" in told else []
    rng.shuffle(extra)
    does = []
    if "bag" in told:
        verb = "wearing" if person.bag == "backpack" and rng.random() < 0.3 else "carrying"
        does.append(f"{verb} {_coloured(person.bag, person.bag_colour, rng)}")
    if "carried" in told:
        verb = "holding" if does or rng.random() < 0.6 else "carrying"
        verb = "pulling" if person.carried == "suitcase" else verb
        does.append(f"{verb} {_coloured(person.carried, person.carried_colour, rng)}")
    return Facts(has, core, extra, does)


def _is_enough(facts: Facts) -> bool:
    """Whether there are more than two facts."""
    return sum(map(len, facts)) > 2


def _pose(view: CameraView, rng: Random) -> str:
    """Say what the person is doing: "walking away from the camera"."""
    verb = "walking" if view.walking else "standing"
    if view.from_front:
        return f"{verb} {rng.choice(['towards', 'toward'])} the camera" if view.walking else f"{verb} facing the camera"
    if view.from_back:
        return f"{verb} away from the camera" if view.walking else f"{verb} with {{their}} back to the camera"
    return f"{verb} {rng.choice(['sideways', 'in profile'])}" if rng.random() < 0.5 else verb


def write_caption(person: Person, view: CameraView, rng: Random) -> str:
    """Describe a person as seen in a view: one to four sentences, about 23 words on average."""
    facts = max((_tell(person, view, rng) for _ in range(2)), key=_is_enough)
    noun = pick(rng, _SUBJECTS[person.gender, person.age])
    subject = rng.choice([article(noun), article(noun), f"the {noun}", f"this {noun}"])
    oxford = rng.random() < 0.4
    pose = _pose(view, rng) if rng.random() < 0.16 else ""
    sentences = rng.choice(_TEMPLATES)(facts, subject, noun, pose, oxford)
    pronoun = "he" if person.gender == "male" else "she"
    sentences = [sentence.replace("{they}", pronoun) for sentence in sentences]
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    text = text.replace("{their}", "his" if person.gender == "male" else "her")
    return text.replace("grey", "gray") if rng.random() < 0.35 else text


# Templates: each gives sentences without capitals and full stops; "{they}" becomes the pronoun. Empty lists and an
# empty pose leave no trace.


def _one_list(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    having = f" with {listing(facts.has, oxford)}" if facts.has else ""
    first = f"{subject}{having} is wearing {listing(facts.core + facts.extra, oxford)}"
    return [first, *_doing(facts.does + ([pose] if pose else []), oxford)]


def _hair_first(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    having = f" has {listing(facts.has, oxford)} and" if facts.has else ""
    standing = [f"the {noun} is {pose}"] if pose else []
    worn = listing(facts.core + facts.extra, oxford)
    return [f"{subject}{having} is wearing {worn}", *_doing(facts.does, oxford), *standing]


def _clothes_first(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    rest = [f"has {listing(facts.has, oxford)}"] if facts.has else []
    does = facts.does + ([pose] if pose else [])
    rest += [f"is {listing(does, oxford)}"] if does else []
    if not rest:
        return _one_list(facts, subject, noun, pose, oxford)
    extra = [f"{{they}} also wears {listing(facts.extra, oxford)}"] if facts.extra else []
    return [f"dressed in {listing(facts.core, oxford)}, the {noun} {' and '.join(rest)}", *extra]


def _pose_first(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    posed = f" {pose}" if pose else ""
    rest = [f"has {listing(facts.has, oxford)}"] if facts.has else []
    rest += [f"is wearing {listing(facts.extra, oxford)}"] if facts.extra else []
    second = [f"{{they}} {' and '.join(rest)}"] if rest else []
    return [f"{subject}{posed} is dressed in {listing(facts.core, oxford)}", *second, *_doing(facts.does, oxford)]


def _bag_first(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    doing = [pose] if pose else facts.does
    later = facts.does if pose else []
    having = [f"{{they}} has {listing(facts.has, oxford)}"] if facts.has else []
    worn = listing(facts.core + facts.extra, oxford)
    first = f"{subject} is {' and '.join(doing)} and wears {worn}" if doing else f"{subject} wears {worn}"
    return [first, *having, *_doing(later, oxford)]


def _noun_phrase(facts: Facts, subject: str, noun: str, pose: str, oxford: bool) -> list[str]:
    having = f" with {listing(facts.has, oxford)}" if facts.has else ""
    tail = "".join(f", {doing}" for doing in [*facts.does, *([pose] if pose else [])])
    extra = [f"{{they}} is wearing {listing(facts.extra, oxford)}"] if facts.extra else []
    return [f"{article(noun)}{having} in {listing(facts.core, oxford)}{tail}", *extra]


def _doing(does: list[str], oxford: bool) -> list[str]:
    return [f"{{they}} is {listing(does, oxford)}"] if does else []


_TEMPLATES = (_one_list, _hair_first, _clothes_first, _pose_first, _bag_first, _noun_phrase)
