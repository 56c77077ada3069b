"""Ways to answer "..., without a hat" over drawn people, of whom it is known what each picture shows.

Sentences: captions of people who lack a thing, with "without ..." added, and short sentences such as "a man in a black
jacket without a bag". Share of the first 10 that show the thing; mAP of the caption's own person; for short sentences,
the share of the three named attributes (gender, garment, colour) that the first 10 have.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from bench.query_gallery import SEED, Drawn, average_precision, first
from bench.rows import Rows
from dataset.attributes import chunk_ids
from gallery.encoding.chunks import QueryChunks, no_chunks
from gallery.search.negation import PROBE_WEIGHT

CAPTIONS_PER_THING = 30
CUT = 10
THINGS = {  # name -> the attribute that shows it, words that name it in captions
    "a hat": ("hat", "hat cap beanie"),
    "a bag": ("bag", "bag backpack rucksack handbag purse"),
    "glasses": ("glasses", "glasses sunglasses eyeglasses"),
    "an umbrella": ("carried", "umbrella"),
    "a skirt": ("lower", "skirt"),
    "a dress": ("upper", "dress"),
}
EXACTLY = {"an umbrella": ("umbrella",), "a skirt": ("skirt", "long skirt"), "a dress": ("dress",)}  # values that count
WEIGHTS = (0.25, 0.5, 1.0, 2.0)


class Case(NamedTuple):
    kept: str  # the sentence without its negation
    thing: str
    person_id: int | None  # of a caption
    wanted: dict[str, str]  # attributes that a short sentence names


def showing(drawn: Drawn, people: dict[int, dict[str, str]], thing: str) -> np.ndarray:
    """Whether each image shows the thing (N,)."""
    attribute, values = THINGS[thing][0], EXACTLY.get(thing)
    return np.array(
        [
            attribute in shown.attributes and (values is None or people[shown.person_id][attribute] in values)
            for shown in drawn.shown
        ]
    )


def cases(drawn: Drawn, people: dict[int, dict[str, str]]) -> Iterator[Case]:
    for thing, (attribute, names) in THINGS.items():
        values = EXACTLY.get(thing)
        found = 0
        for caption in drawn.captions(10**6):
            own = people[caption.person_id][attribute]
            lacks = own == "none" if values is None else own not in values
            if lacks and set(caption.text.split()).isdisjoint(names.split()):
                yield Case(caption.text, thing, caption.person_id, {})
                found += 1
            if found == CAPTIONS_PER_THING:
                break
        for colour in ("black", "white", "grey", "red", "blue"):
            for gender, word in (("male", "man"), ("female", "woman")):
                garment = Random(f"{SEED}/{colour}/{gender}").choice(["jacket", "shirt", "t-shirt"])
                wanted = {"gender": gender, "upper": garment, "upper_colour": colour}
                yield Case(f"a {word} in a {colour} {garment}", thing, None, wanted)


class Vectors(NamedTuple):
    """Of the sentences of all cases (C, E)."""

    negated: np.ndarray  # "... without a hat"
    kept: np.ndarray
    affirmed: np.ndarray  # "... with a hat"
    probe: np.ndarray  # "a person with a hat"
    person: np.ndarray  # "a person"


def fast_ways(vectors: Vectors) -> dict[str, np.ndarray]:
    """Query vectors by the names of the ways."""
    kept, change, probe = vectors.kept, vectors.affirmed - vectors.kept, vectors.probe - vectors.person
    return {
        "the sentence as it is": vectors.negated,
        "cut": kept,
        **{f"cut - {weight} probe": kept - weight * vectors.probe for weight in WEIGHTS[:3]},
        **{f"cut - {weight} (probe - person)": kept - weight * probe for weight in WEIGHTS},
        **{f"cut - {weight} (affirmed - cut)": kept - weight * change for weight in WEIGHTS},
    }


def measured(
    order: Sequence[np.ndarray], drawn: Drawn, people: dict[int, dict[str, str]], every: list[Case]
) -> list[str]:
    """Cells of the table. order: rows of the images, best first, for each case."""
    shows = {thing: showing(drawn, people, thing) for thing in THINGS}
    wrong = np.array([shows[case.thing][rows[:CUT]].mean() for rows, case in zip(order, every, strict=True)])
    own = [
        average_precision(drawn.person_id[rows] == case.person_id)
        for rows, case in zip(order, every, strict=True)
        if case.person_id is not None
    ]
    fits = [
        np.mean(
            [people[drawn.person_id[row]][name] == value for row in rows[:CUT] for name, value in case.wanted.items()]
        )
        for rows, case in zip(order, every, strict=True)
        if case.wanted
    ]
    things = [wrong[[case.thing == thing for case in every]].mean() for thing in THINGS]
    return [f"{100 * value:.1f}" for value in (wrong.mean(), np.mean(own), np.mean(fits), *things)]


def bench(drawn: Drawn, people: dict[int, dict[str, str]]) -> None:
    every = list(cases(drawn, people))
    vectors = Vectors(
        drawn.embed([f"{case.kept} without {case.thing}" for case in every]),
        drawn.embed([case.kept for case in every]),
        drawn.embed([f"{case.kept} with {case.thing}" for case in every]),
        drawn.embed([f"a person with {case.thing}" for case in every]),
        drawn.embed(["a person"]),
    )
    rows = Rows(
        {"way": 32}, ["shown", "mAP", "fits", *(thing.split()[-1] for thing in THINGS)], title="negation, %", width=7
    )
    base = [100 * showing(drawn, people, thing).mean() for thing in THINGS]
    rows.add("all images", f"{np.mean(base):.1f}", "", "", *(f"{share:.1f}" for share in base))
    for name, queries in fast_ways(vectors).items():
        order = [first(similarity, len(drawn.person_id)) for similarity in queries @ drawn.vectors.T]
        rows.add(name, *measured(order, drawn, people, every))
    top_k = drawn.encoder.config.eval.rerank_top_k
    if top_k:
        for name, order in exact_ways(drawn, every, vectors, top_k).items():
            rows.add(f"exact, {name}", *measured(order, drawn, people, every))


def exact_ways(drawn: Drawn, every: list[Case], vectors: Vectors, top_k: int) -> dict[str, list[np.ndarray]]:
    """Orders in which the matching head has put the first top_k of the cut sentence, pushed by the probe."""
    orders: dict[str, list[np.ndarray]] = {}
    for number, (case, kept) in enumerate(zip(every, vectors.kept, strict=True)):
        order = first(drawn.vectors @ (kept - PROBE_WEIGHT * vectors.probe[number]), len(drawn.person_id))
        found, rest = order[:top_k], order[top_k:]
        asis, plain, probe = drawn.sentences(
            [f"{case.kept} without {case.thing}", case.kept, f"a person with {case.thing}"]
        )
        noun = case.thing.split()[-1]
        spans = [[(len(probe.text) - len(noun), len(probe.text))]]
        chunk = QueryChunks([noun], spans, chunk_ids(probe.encoded.offsets, spans))
        negated, _ = drawn.match(asis, no_chunks(asis.encoded), found)
        score, _ = drawn.match(plain, no_chunks(plain.encoded), found)
        pair, part = drawn.match(probe, chunk, found)
        alike, shown = vectors.probe[number] @ drawn.vectors[found].T, part[:, 0]
        ways = {
            "the sentence as it is": negated,
            "cut": score,
            "cut - log odds of chunk": score - np.log(shown / (1 - shown + 1e-9) + 1e-9),
            "cut, chunk over 1/2 last": score - 1e3 * (shown > 0.5),
            "cut - chunk rank": -rank(score) - rank(-shown),
            "cut - logit of probe": score - pair,
            **{f"cut - {weight} similarity": score - weight * alike for weight in (2, 5, 10, 20)},
        }
        for name, value in ways.items():
            orders.setdefault(name, []).append(np.concatenate([found[first(value, len(found))], rest]))
    return orders


def rank(values: np.ndarray) -> np.ndarray:
    """0 for the largest."""
    return np.argsort(np.argsort(-values, kind="stable"))
