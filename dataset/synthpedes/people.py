"""Attributes of drawn pedestrians, and the drawing of whole populations: with look-alikes, without duplicates.

Every attribute is a string; "none" means that a person has no such thing. Attributes are drawn in the order of the
fields, each given the earlier ones, so that impossible people (a bearded child, a dress over trousers) do not occur.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from dataset.synthpedes.palette import CLOTH_RGB, luminance

NONE = "none"
GROUP_CHANGES = (  # attributes in which look-alikes may differ
    "upper_colour", "lower_colour", "shoe_colour", "hair_colour", "bag", "bag_colour", "hat", "hat_colour", "pattern",
    "pattern_colour", "glasses", "carried", "carried_colour", "inner_colour", "scarf_colour",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """What a caption may say about a person. Two people of a benchmark differ in at least one field."""

    gender: str  # male | female
    age: str  # child | adult | elderly
    hair: str  # bald | short | shoulder-length | long | ponytail | bun
    hair_colour: str  # key of HAIR_RGB, or none (bald)
    beard: str  # beard | none
    hat: str  # cap | beanie | sun hat | none
    hat_colour: str
    glasses: str  # glasses | sunglasses | none
    upper: str  # t-shirt | shirt | sweater | hoodie | jacket | coat | vest | tank top | dress
    upper_colour: str  # key of CLOTH_RGB; likewise every other colour below
    pattern: str  # plain | striped | checked | dotted | logo
    pattern_colour: str
    sleeves: str  # long | short | none
    inner_colour: str  # of the shirt seen under an open jacket or coat, or under a vest
    scarf_colour: str
    lower: str  # jeans | trousers | leggings | shorts | skirt | long skirt | none (dress)
    lower_colour: str
    shoes: str  # sneakers | leather shoes | boots | sandals | high heels
    shoe_colour: str
    bag: str  # backpack | handbag | shoulder bag | none
    bag_colour: str
    carried: str  # phone | bottle | umbrella | shopping bag | suitcase | book | none
    carried_colour: str


Weights = dict[str, float]
_UPPER_COLOURS: Weights = {
    "black": 16, "white": 14, "grey": 10, "red": 9, "blue": 9, "navy": 6, "light blue": 6, "green": 6,
    "dark green": 4, "yellow": 5, "orange": 4, "pink": 5, "purple": 4, "brown": 4, "beige": 4,
}  # fmt: skip
_LOWER_COLOURS: dict[str, Weights] = {
    "jeans": {"blue": 5, "navy": 4, "light blue": 3, "black": 2, "grey": 1},
    "trousers": {"black": 6, "grey": 3, "beige": 3, "brown": 2, "navy": 2, "dark green": 1, "white": 1, "red": 0.5},
    "leggings": {"black": 5, "grey": 2, "purple": 1, "navy": 1},
    "shorts": {"black": 3, "blue": 2, "grey": 2, "beige": 2, "red": 1, "green": 1, "white": 1, "orange": 0.5},
    "skirt": {"black": 3, "red": 2, "grey": 1, "pink": 1, "blue": 1, "white": 1, "yellow": 1, "purple": 1},
    "long skirt": {"black": 2, "red": 1, "brown": 1, "green": 1, "purple": 1, "beige": 1, "blue": 1},
}
_PATTERNS: dict[str, Weights] = {
    "t-shirt": {"plain": 5, "striped": 2, "logo": 3},
    "shirt": {"plain": 5, "striped": 2, "checked": 4},
    "sweater": {"plain": 6, "striped": 3, "checked": 1},
    "hoodie": {"plain": 6, "logo": 3, "striped": 1},
    "coat": {"plain": 8, "checked": 2},
    "tank top": {"plain": 6, "striped": 2, "logo": 1},
    "dress": {"plain": 5, "striped": 1.5, "dotted": 2.5, "checked": 1.5},
}
_SLEEVES: dict[str, Weights] = {
    "t-shirt": {"short": 8, "long": 2},
    "shirt": {"long": 6, "short": 4},
    "dress": {"short": 5, "long": 3, "none": 3},
    "vest": {"long": 7, "short": 3},  # of the shirt under the vest
    "tank top": {"none": 1},
}
_OPEN_SHARES = {"jacket": 0.6, "coat": 0.4, "vest": 1.0}  # of the garments that are open or have no sleeves
_SHOE_COLOURS: dict[str, Weights] = {
    "sneakers": {"white": 5, "black": 4, "grey": 2, "red": 2, "blue": 2, "pink": 1, "green": 1, "yellow": 1},
    "leather shoes": {"black": 3, "brown": 2},
    "boots": {"black": 3, "brown": 3, "beige": 1},
    "sandals": {"brown": 2, "beige": 1, "black": 1},
    "high heels": {"black": 3, "red": 2, "white": 1, "pink": 1},
}
_BAG_COLOURS: Weights = {
    "black": 5, "brown": 3, "red": 3, "blue": 2, "grey": 2, "green": 2, "yellow": 1.5, "pink": 1.5, "white": 1.5,
    "orange": 1, "purple": 1,
}  # fmt: skip
_CARRIED_COLOURS: dict[str, Weights] = {
    "umbrella": {"black": 2, "red": 2, "blue": 2, "yellow": 2, "green": 1, "pink": 1, "purple": 1},
    "shopping bag": {"white": 3, "red": 1, "green": 1, "yellow": 1},
    "suitcase": {"black": 2, "red": 1, "blue": 1, "grey": 1},
}


def pick(rng: Random, weights: Weights) -> str:
    """Draw a key with a probability proportional to its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def _stands_out(colour: str, other: str) -> bool:
    """Whether two cloth colours side by side can be told apart, even in grey."""
    return abs(luminance(CLOTH_RGB[colour]) - luminance(CLOTH_RGB[other])) > 70


def _contrasting(rng: Random, colour: str) -> str:
    """Draw a colour that stands out from another one, mostly black or white."""
    fitting = [name for name in CLOTH_RGB if _stands_out(name, colour)]
    return pick(rng, {name: 4 if name in ("white", "black") else 1 for name in fitting})


def _hair(p: dict[str, str], rng: Random) -> str:
    if p["gender"] == "male":
        bald = 0.0 if p["age"] == "child" else 0.1
        return pick(rng, {"short": 0.83, "bald": bald, "long": 0.07})
    return pick(rng, {"short": 0.18, "shoulder-length": 0.26, "long": 0.3, "ponytail": 0.17, "bun": 0.09})


def _hair_colour(p: dict[str, str], rng: Random) -> str:
    if p["hair"] == "bald":
        return NONE
    if p["age"] == "elderly":
        return pick(rng, {"grey": 1, "white": 1})
    return pick(rng, {"black": 0.4, "brown": 0.28, "blonde": 0.22, "red": 0.1})


def _beard(p: dict[str, str], rng: Random) -> str:
    return "beard" if p["gender"] == "male" and p["age"] != "child" and rng.random() < 0.25 else NONE


def _hat(p: dict[str, str], rng: Random) -> str:
    if p["hair"] in ("bald", "bun"):  # a hat would hide them
        return NONE
    return pick(rng, {NONE: 0.7, "cap": 0.13, "beanie": 0.09, "sun hat": 0.08 if p["gender"] == "female" else 0.02})


def _upper(p: dict[str, str], rng: Random) -> str:
    kinds: Weights = {
        "t-shirt": 21,
        "shirt": 16,
        "sweater": 12,
        "hoodie": 12,
        "jacket": 15,
        "coat": 9,
        "vest": 5,
        "tank top": 4,
    }
    return pick(rng, kinds | ({"dress": 20} if p["gender"] == "female" else {}))


def _inner_colour(p: dict[str, str], rng: Random) -> str:
    return _contrasting(rng, p["upper_colour"]) if rng.random() < _OPEN_SHARES.get(p["upper"], 0.0) else NONE


def _scarf_colour(p: dict[str, str], rng: Random) -> str:
    warm = p["upper"] in ("jacket", "coat", "sweater")
    return _contrasting(rng, p["upper_colour"]) if warm and rng.random() < 0.2 else NONE


def _lower(p: dict[str, str], rng: Random) -> str:
    if p["upper"] == "dress":
        return NONE
    kinds: Weights = {"jeans": 0.4, "trousers": 0.38, "shorts": 0.22}
    if p["gender"] == "female":
        kinds = {"jeans": 0.3, "trousers": 0.2, "leggings": 0.1, "shorts": 0.13, "skirt": 0.19, "long skirt": 0.08}
    if p["upper"] == "coat":  # it would hide them
        kinds = {kind: weight for kind, weight in kinds.items() if kind not in ("shorts", "skirt")}
    return pick(rng, kinds)


def _shoes(p: dict[str, str], rng: Random) -> str:
    if p["age"] == "child":
        return pick(rng, {"sneakers": 0.75, "boots": 0.15, "sandals": 0.1})
    if p["gender"] == "male":
        return pick(rng, {"sneakers": 0.58, "leather shoes": 0.26, "boots": 0.1, "sandals": 0.06})
    return pick(rng, {"sneakers": 0.42, "high heels": 0.18, "boots": 0.2, "sandals": 0.12, "leather shoes": 0.08})


def _bag(p: dict[str, str], rng: Random) -> str:
    if p["age"] == "child":
        return pick(rng, {NONE: 0.5, "backpack": 0.5})
    handbag = 0.2 if p["gender"] == "female" else 0.04
    return pick(rng, {NONE: 0.4, "backpack": 0.26, "shoulder bag": 0.2, "handbag": handbag})


def _carried(p: dict[str, str], rng: Random) -> str:
    things = {NONE: 0.6, "phone": 0.1, "bottle": 0.06, "umbrella": 0.08, "shopping bag": 0.06, "book": 0.05}
    return pick(rng, things | ({} if p["age"] == "child" else {"suitcase": 0.05}))


def _colour_of(thing: str, weights: Weights) -> Callable[[dict[str, str], Random], str]:
    """Return a sampler of the colour of a thing that not everybody has."""
    return lambda p, rng: pick(rng, weights) if p[thing] != NONE else NONE


# In the order of Person's fields: a sampler may use the attributes above its own.
_SAMPLERS: dict[str, Callable[[dict[str, str], Random], str]] = {
    "gender": lambda p, rng: rng.choice(["male", "female"]),
    "age": lambda p, rng: pick(rng, {"adult": 0.76, "child": 0.12, "elderly": 0.12}),
    "hair": _hair,
    "hair_colour": _hair_colour,
    "beard": _beard,
    "hat": _hat,
    "hat_colour": _colour_of("hat", _BAG_COLOURS),
    "glasses": lambda p, rng: pick(rng, {NONE: 0.74, "glasses": 0.14, "sunglasses": 0.12}),
    "upper": _upper,
    "upper_colour": lambda p, rng: pick(rng, _UPPER_COLOURS),
    "pattern": lambda p, rng: pick(rng, _PATTERNS.get(p["upper"], {"plain": 1})),
    "pattern_colour": lambda p, rng: NONE if p["pattern"] == "plain" else _contrasting(rng, p["upper_colour"]),
    "sleeves": lambda p, rng: pick(rng, _SLEEVES.get(p["upper"], {"long": 1})),
    "inner_colour": _inner_colour,
    "scarf_colour": _scarf_colour,
    "lower": _lower,
    "lower_colour": lambda p, rng: NONE if p["lower"] == NONE else pick(rng, _LOWER_COLOURS[p["lower"]]),
    "shoes": _shoes,
    "shoe_colour": lambda p, rng: pick(rng, _SHOE_COLOURS[p["shoes"]]),
    "bag": _bag,
    "bag_colour": _colour_of("bag", _BAG_COLOURS),
    "carried": _carried,
    "carried_colour": lambda p, rng: (
        pick(rng, _CARRIED_COLOURS[p["carried"]]) if p["carried"] in _CARRIED_COLOURS else NONE
    ),
}


def sample_person(rng: Random) -> Person:
    """Draw one person from scratch."""
    values: dict[str, str] = {}
    for name, sampler in _SAMPLERS.items():
        values[name] = sampler(values, rng)
    return Person(**values)


def num_differences(a: Person, b: Person) -> int:
    """Count the attributes in which two people differ."""
    return sum(value != getattr(b, name) for name, value in vars(a).items())


def _vary(person: Person, rng: Random) -> Person:
    """Redraw one attribute, and its colour if the change brings one or makes it pointless."""
    name = rng.choice(GROUP_CHANGES)
    changed = replace(person, **{name: _SAMPLERS[name](vars(person), rng)})
    colour = f"{name}_colour"
    if colour in _SAMPLERS and changed != person:
        redrawn = _SAMPLERS[colour](vars(changed), rng)
        if (redrawn == NONE) != (getattr(person, colour) == NONE):
            changed = replace(changed, **{colour: redrawn})
    beside = [colour for colour in (changed.pattern_colour, changed.inner_colour) if colour != NONE]
    return changed if all(_stands_out(colour, changed.upper_colour) for colour in beside) else person


def sample_other(person: Person, name: str, rng: Random) -> str | None:
    """Draw another value of an attribute, one that goes with the person's other attributes; None = hardly any does."""
    for _ in range(20):
        value = _SAMPLERS[name](vars(person), rng)
        if value not in (NONE, getattr(person, name)) and _is_possible(replace(person, **{name: value})):
            return value
    return None


def _is_possible(person: Person) -> bool:
    """Whether the kinds of garments and things agree with what depends on them."""
    kinds: list[tuple[str, str, dict[str, Weights]]] = [
        (person.lower, person.lower_colour, _LOWER_COLOURS),
        (person.shoes, person.shoe_colour, _SHOE_COLOURS),
        (person.carried, person.carried_colour, _CARRIED_COLOURS),
    ]
    return (
        all(colour in colours.get(kind, (NONE,)) for kind, colour, colours in kinds)
        and person.pattern in _PATTERNS.get(person.upper, ("plain",))
        and person.sleeves in _SLEEVES.get(person.upper, ("long",))
        and (person.upper == "dress") == (person.lower == NONE)
        and (person.inner_colour == NONE or person.upper in _OPEN_SHARES)
        and (person.inner_colour != NONE or person.upper != "vest")
    )


def sample_lookalike(person: Person, rng: Random) -> Person:
    """Draw a person who differs from the given one in one or two attributes."""
    wanted = rng.choice([1, 2])
    other = person
    while num_differences(person, other) < wanted:
        varied = _vary(other, rng)
        if num_differences(person, varied) <= 2:
            other = varied
    return other


def sample_people(count: int, lookalikes: float, taken: set[Person], rng: Random) -> list[tuple[Person, int | None]]:
    """Draw a split's people: (person, position in the list of the person whom this one resembles, or None).

    Args:
        count: how many people.
        lookalikes: probability in [0, 1) that a person resembles the last one drawn from scratch.
        taken: all people of the benchmark so far; none of them is drawn again, and the new ones are added.
    """
    people: list[tuple[Person, int | None]] = []
    original: int | None = None
    while len(people) < count:
        resembles = original if rng.random() < lookalikes else None
        person = sample_person(rng) if resembles is None else sample_lookalike(people[resembles][0], rng)
        if person in taken:
            continue
        taken.add(person)
        original = len(people) if resembles is None else resembles
        people.append((person, resembles))
    return people
