"""Captions of drawn pedestrians in the style of CUHK-PEDES: synonyms, varied order, some attributes left out.

A caption mentions only what its view shows (`visible_attributes` in views.py). It never names a bag hidden by the body
or shoes behind a hedge.
"""

from random import Random
from typing import NamedTuple

from dataset.synthpedes.naming import Caption, named, read_marks, without_marks
from dataset.synthpedes.people import NONE, Person, pick
from dataset.synthpedes.views import CameraView, visible_attributes
from dataset.synthpedes.vocabulary import (
    BLOUSE,
    COLOURS,
    HAIR_COLOURS,
    NOUNS,
    PATTERN_ADJECTIVES,
    PATTERN_NOUNS,
    SLEEVES,
    SUBJECTS,
)

_KEEP = {  # probability of mentioning something visible
    "upper": 0.96, "lower": 0.95, "hair": 0.42, "shoes": 0.42, "bag": 0.85, "carried": 0.8, "hat": 0.8,
    "glasses": 0.5, "beard": 0.5, "scarf_colour": 0.7,
}  # fmt: skip


def article(phrase: str) -> str:
    """Put "a" or "an" before a phrase (none of our words starts with a silent h or a u as in "unit")."""
    return f"{'an' if without_marks(phrase)[0].lower() in 'aeiou' else 'a'} {phrase}"


def listing(items: list[str], oxford: bool) -> str:
    """Join phrases: "a, b and c"."""
    if len(items) < 3:
        return " and ".join(items)
    return f"{', '.join(items[:-1])}{',' if oxford else ''} and {items[-1]}"


def _colour(person: Person, attribute: str, part: str, rng: Random) -> str:
    colour = getattr(person, attribute)
    return named(rng.choice(COLOURS.get(colour, [colour])), attribute, part)


def _noun(person: Person, attribute: str, rng: Random) -> str:
    """Name a garment or a thing, whose part of the picture is called like the attribute."""
    return named(rng.choice(NOUNS[getattr(person, attribute)]), attribute, attribute)


def _upper(person: Person, shown: set[str], rng: Random) -> str:
    noun = _noun(person, "upper", rng)
    if person.upper == "shirt" and person.gender == "female" and rng.random() < 0.5:
        noun = named(BLOUSE, "upper", "upper")
    colour, tail = _patterned(person, shown, rng)
    (sleeve,) = SLEEVES[person.sleeves]
    telling = person.upper in ("shirt", "dress") or (person.upper == "t-shirt" and person.sleeves == "long")
    chance = 0.45 if telling else 0.15 if person.upper == "t-shirt" else 0.0
    words = [named(sleeve, "sleeves", "upper")] if rng.random() < chance else []
    if "inner_colour" in shown:
        under = named(rng.choice(["shirt", "top", "t-shirt"]) if person.upper != "vest" else "shirt", "", "inner")
        under = f"{named(sleeve, 'sleeves', 'inner')} {under}" if person.upper == "vest" else under
        inner = f"{_colour(person, 'inner_colour', 'inner', rng)} {under}"
        tail = f" over {article(inner)}"
        words = ["open"] if person.upper != "vest" and rng.random() < 0.3 else []
    return article(" ".join([*words, colour, noun])) + tail


def _patterned(person: Person, shown: set[str], rng: Random) -> tuple[str, str]:
    """Return the words before and after the noun of the upper garment."""
    colour = _colour(person, "upper_colour", "upper", rng)
    if "pattern" not in shown or rng.random() < 0.1:
        return colour, ""
    second = _colour(person, "pattern_colour", "logo" if person.pattern == "logo" else "upper", rng)
    if person.pattern == "logo":
        thing, place = rng.choice(["logo", "print", "design"]), rng.choice(["", "", " on the front", " on the chest"])
        logo = f"{second} {named(thing, '', 'logo')}"
        return colour, f" with {article(logo)}{place}"
    if rng.random() < 0.65:
        adjective = named(rng.choice(PATTERN_ADJECTIVES[person.pattern]), "pattern", "upper")
        return f"{colour} and {second} {adjective}", ""
    return colour, f" with {second} {named(rng.choice(PATTERN_NOUNS[person.pattern]), 'pattern', 'upper')}"


def _paired(person: Person, colour: str, attribute: str, rng: Random) -> str:
    """Name things that come in pairs: "blue jeans" or "a pair of blue jeans"."""
    phrase = f"{_colour(person, colour, attribute, rng)} {_noun(person, attribute, rng)}"
    return f"a pair of {phrase}" if rng.random() < 0.25 else phrase


def _lower(person: Person, rng: Random) -> str:
    if "skirt" not in person.lower:
        return _paired(person, "lower_colour", "lower", rng)
    length = "long" if person.lower == "long skirt" else rng.choice(["", "short"])
    words = [named(length, "lower", "lower")] if length else []
    return article(" ".join([*words, _colour(person, "lower_colour", "lower", rng), named("skirt", "lower", "lower")]))


def _hair(person: Person, shown: set[str], rng: Random) -> str:
    if person.hair == "bald":
        return f"a {named('bald head', 'hair', 'head')}"
    colour = rng.choice(HAIR_COLOURS.get(person.hair_colour, [person.hair_colour]))
    phrase = f"{named(colour, 'hair_colour', 'hair')} {named('hair', '', 'hair')}"
    if "hair" not in shown:
        return phrase
    style = named(person.hair, "hair", "hair")
    if person.hair in ("ponytail", "bun"):
        tied = rng.choice(
            ["tied in", "pulled back in", "worn in"] if person.hair == "ponytail" else ["tied in", "up in"]
        )
        return f"{phrase} {tied} a {style}"
    return f"{style} {phrase}"


def _coloured(person: Person, attribute: str, rng: Random) -> str:
    noun, colour = _noun(person, attribute, rng), f"{attribute}_colour"
    return article(noun if getattr(person, colour) == NONE else f"{_colour(person, colour, attribute, rng)} {noun}")


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
    has += [f"a {named('beard', 'beard', 'beard')}"] if "beard" in told else []
    core = [_upper(person, shown, rng)] if "upper" in told else []
    core += [_lower(person, rng)] if "lower" in told else []
    extra = [_paired(person, "shoe_colour", "shoes", rng)] if "shoes" in told else []
    extra += [_coloured(person, "hat", rng)] if "hat" in told else []
    extra += [rng.choice(["", "a pair of "]) + _noun(person, "glasses", rng)] if "glasses" in told else []
    if "scarf_colour" in told:
        extra.append(article(f"{_colour(person, 'scarf_colour', 'scarf', rng)} {named('scarf', '', 'scarf')}"))
    rng.shuffle(extra)
    does = []
    if "bag" in told:
        verb = "wearing" if person.bag == "backpack" and rng.random() < 0.3 else "carrying"
        does.append(f"{verb} {_coloured(person, 'bag', rng)}")
    if "carried" in told:
        verb = "holding" if does or rng.random() < 0.6 else "carrying"
        verb = "pulling" if person.carried == "suitcase" else verb
        does.append(f"{verb} {_coloured(person, 'carried', rng)}")
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
    return describe(person, view, rng).text


def describe(person: Person, view: CameraView, rng: Random) -> Caption:
    """As write_caption; also tells which words name what."""
    facts = max((_tell(person, view, rng) for _ in range(2)), key=_is_enough)
    noun = pick(rng, SUBJECTS[person.gender, person.age])
    subject = rng.choice([article(noun), article(noun), f"the {noun}", f"this {noun}"])
    oxford = rng.random() < 0.4
    pose = _pose(view, rng) if rng.random() < 0.16 else ""
    sentences = rng.choice(_TEMPLATES)(facts, subject, noun, pose, oxford)
    pronoun = "he" if person.gender == "male" else "she"
    sentences = [sentence.replace("{they}", pronoun) for sentence in sentences]
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    text = text.replace("{their}", "his" if person.gender == "male" else "her")
    return read_marks(text.replace("grey", "gray") if rng.random() < 0.35 else text)


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
