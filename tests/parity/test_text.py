"""Token ids and attribute chunks of 83 captions against the published code (MAMBA-TBPS, RaSa); integers, so exact.

The published code decodes the word pieces one by one and parses those ("##igan" reaches spaCy as "#", "#", "igan"); we
parse the caption. Where a caption holds whole words only, both texts are the same and so must be the chunks.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from dataset.attributes import attribute_spans, chunk_ids, find_chunks, installed_parser
from dataset.tokenizer import encode, load_tokenizer
from utils.pretrained import packaged_bert

CASE = json.loads((Path(__file__).parent / "vectors/text/captions.json").read_text())
ROWS: list[dict[str, Any]] = CASE["rows"]
UNCUT = 10_000  # tokens: more than any caption has
EQUAL_CHUNKS = 53  # captions of the 83 with the published chunks, with the parser version of the vectors
SEEN_BY_SPACY = 36  # of those, captions of whole words


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(packaged_bert()))


def has_whole_words_only(row: dict[str, Any]) -> bool:
    return not any(token.startswith("##") or token == "[UNK]" for token in row["tokens"])


def test_token_ids(tokenizer):
    for row in ROWS:
        assert encode(tokenizer, row["pre_caption_90"], UNCUT).ids == row["input_ids"], row["raw"]


def test_token_ids_cut_as_in_published_evaluation(tokenizer):
    for row in ROWS:
        assert encode(tokenizer, row["pre_caption_90"], 90).ids == row["eval_input_ids_nonpad"], row["raw"]


def test_rule_on_the_published_noun_chunks():
    """Given the published text and its noun chunks, the rule and the mapping by offsets give the published mask."""
    for row in ROWS:
        published = row["attr_unpadded"]
        offsets, end = [(0, 0)], 0
        for token in row["tokens"][1:]:
            start = published["joined_text"].index(token, end)
            end = start + len(token)
            offsets.append((start, end))
        noun_chunks = [[(first, text, pos) for text, pos, first in chunk] for chunk in published["noun_chunks"]]
        assert chunk_ids(offsets, attribute_spans(noun_chunks)) == published["mask"], row["raw"]


def test_chunks_of_the_parser(tokenizer, tmp_path):
    model = installed_parser().model
    if model is None or model.split("_")[-1] not in CASE["meta"]["spacy_model"]:
        pytest.skip("needs the spaCy model that the vectors were made with")
    captions = [row["pre_caption_90"] for row in ROWS]
    found = [
        chunk_ids(encode(tokenizer, caption, UNCUT).offsets, chunks)
        for caption, chunks in zip(captions, find_chunks(captions, tmp_path), strict=True)
    ]
    equal = [ids == row["attr_unpadded"]["mask"] for ids, row in zip(found, ROWS, strict=True)]
    whole = [has_whole_words_only(row) for row in ROWS]
    assert sum(whole) == SEEN_BY_SPACY
    assert all(same for same, only_whole_words in zip(equal, whole, strict=True) if only_whole_words)
    assert sum(equal) >= EQUAL_CHUNKS
