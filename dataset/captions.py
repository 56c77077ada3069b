"""Caption cleaning, the same for training, evaluation and search. Rule: docs/data.md (ALBEF's, extended by RaSa)."""

import re

_CLEANING = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~", ""), "-": " ", "/": " "})


def clean_caption(text: str, max_words: int) -> str:
    """Lower-case text, drop punctuation, split compounds at hyphens and slashes, and keep the first max_words words.

    Spaces separate words. As in the published code, a single line break or tab inside the text joins two words into one
    (the tokenizer still separates them), while longer white space becomes one space.
    """
    text = text.lower().translate(_CLEANING).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
