"""The most frequent nouns and adjectives in a benchmark's captions."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset.attributes import TAGS, installed_parser
from dataset.benchmarks import SPLITS
from dataset.captions import clean_caption
from dataset.records import read_records
from figures.inputs import positive
from figures.style import BLUE, INK, ORANGE, new_figure, save
from utils.errors import UserError
from utils.log import progress

PIPES = ("tok2vec", "tagger", "attribute_ruler")  # what spaCy needs for parts of speech, and nothing else
CAPTIONS_AT_A_TIME = 256
MAX_WORDS = 10_000  # of a caption; unlike in training, all of its words count
WIDTH_INCHES, BAR_INCHES, FRAME_INCHES = 7.2, 0.19, 1.0


class WordCounts(NamedTuple):
    """How often each word occurs in the captions, by part of speech."""

    nouns: Counter[str]
    adjectives: Counter[str]
    num_captions: int
    source: str  # what the parts of speech come from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="DATA", help="folder of a benchmark, with processed_data/")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="whose captions (default: all)"
    )
    parser.add_argument(
        "--words", type=positive, default=25, metavar="N", help="nouns and adjectives each (default: 25)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="files to write, without suffix")


def make(args: argparse.Namespace) -> list[Path]:
    records = [record for split in args.splits for record in read_records(args.root, split)]
    captions = [clean_caption(text, MAX_WORDS) for record in records for text in record.captions]
    drawn = ", drawn pedestrians" if (args.root / "synthetic.json").is_file() else ""
    title = f"{args.root.resolve().name}{drawn}: {', '.join(args.splits)}"
    return save(draw_words(count_words(captions), title, args.words), args.out)


def count_words(captions: Sequence[str]) -> WordCounts:
    """Count the nouns and adjectives of cleaned captions, every form of a word by itself.

    Single letters, as in "t shirt", do not count.
    spaCy's tagger tells the parts of speech. Without an English model, the word list in dataset/attributes.py does.
    """
    model = installed_parser().model
    counts = WordCounts(Counter(), Counter(), len(captions), "word list" if model is None else f"spaCy {model}")
    tagged = _tagged_by_list(captions) if model is None else _tagged_by_spacy(captions, model)
    with progress[None](len(captions), "finding nouns and adjectives", "captions") as bar:
        while batch := list(islice(tagged, CAPTIONS_AT_A_TIME)):
            for words in batch:
                counts.nouns.update(word for word, tag in words if tag == "NOUN" and len(word) > 1)
                counts.adjectives.update(word for word, tag in words if tag == "ADJ" and len(word) > 1)
            bar.advance(len(batch))
    return counts


def _tagged_by_spacy(captions: Sequence[str], model: str) -> Iterator[list[tuple[str, str]]]:
    import spacy

    pipeline = spacy.load(model)
    pipeline.select_pipes(enable=list(PIPES))
    for doc in pipeline.pipe(captions, batch_size=CAPTIONS_AT_A_TIME):
        yield [(token.text, token.pos_) for token in doc]


def _tagged_by_list(captions: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    names = {"A": "ADJ", "N": "NOUN"}
    for caption in captions:
        yield [(word, names.get(TAGS.get(word, ""), "")) for word in caption.split()]


def draw_words(counts: WordCounts, title: str, num_words: int = 25) -> Figure:
    """Draw bars of nouns and adjectives side by side, the most frequent at the top.

    Raises: UserError if the captions hold neither.
    """
    if not counts.nouns and not counts.adjectives:
        raise UserError("the captions hold no noun and no adjective that the tagger knows")
    rows = min(num_words, max(len(counts.nouns), len(counts.adjectives)))
    figure = new_figure(WIDTH_INCHES, FRAME_INCHES + rows * BAR_INCHES, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    left, right = figure.subplots(1, 2)
    _draw_bars(left, counts.nouns.most_common(num_words), rows, "nouns", BLUE)
    _draw_bars(right, counts.adjectives.most_common(num_words), rows, "adjectives", ORANGE)
    note = f"occurrences in {counts.num_captions:,} captions; parts of speech: {counts.source}"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    return figure


def _draw_bars(axes: Axes, words: list[tuple[str, int]], rows: int, title: str, colour: str) -> None:
    names, numbers = [word for word, _ in words], [number for _, number in words]
    axes.barh(range(len(words)), numbers, color=colour, height=0.72)
    axes.set_title(title)
    axes.set_yticks(range(len(words)), names)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, 1.2 * max(numbers, default=1))  # leaves room for the numbers beside the bars
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[["bottom", "left"]].set_visible(False)
    for row, number in enumerate(numbers):
        axes.annotate(
            f"{number:,}", (number, row), (3, 0), textcoords="offset points", va="center", fontsize=7, color=INK
        )
