"""Chunk scores: a model that reads the picture tells exchanged chunks apart, one that does not is at chance."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer

from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from evaluation.grounding.cases import Case, load_cases
from evaluation.grounding.chunk_scores import Scored, measure_chunks, score_chunks
from models.build import build_model
from models.person_search import PersonSearchModel
from utils.distributed import start

WORDS = ((1, -1.0, -2.0), (2, -3.0, -4.0))  # person, log-probabilities of shown and other words
OWN, ELSEWHERE = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)  # image tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> BertTokenizer:
    return load_tokenizer(str(tiny_bert))


@pytest.fixture(scope="module")
def cases(debug_config, tokenizer) -> list[Case]:
    config = debug_config()
    sets = eval_loaders_of(config, tokenizer, start(), "train").sets
    return load_cases(config, sets)


def seeing_model(true_words: Tensor) -> Any:
    """A model that scores a chunk by how many of its tokens are among the true ones, on the right picture only."""

    def cross_modal(ids: Tensor, mask: Tensor, image_tokens: Tensor, **_: Any) -> Tensor:
        return (torch.isin(ids, true_words) * mask)[..., None] * image_tokens

    model = SimpleNamespace(text_encoder=SimpleNamespace(cross_modal=cross_modal))
    model.itm_head = lambda hidden: torch.cat([-hidden, hidden], dim=-1)
    model.chunk_logits = lambda hidden, numbers: PersonSearchModel.chunk_logits(model, hidden, numbers)
    return model


def test_who_sees_the_picture_tells_all_exchanges(cases, tokenizer):
    scored = []
    for case in cases:
        true = torch.tensor(tokenizer(case.caption.text, add_special_tokens=False)["input_ids"])
        scored += score_chunks(seeing_model(true), case, OWN, ELSEWHERE, tokenizer, 48, tells_words=False)
    found = measure_chunks(scored)
    assert found["all"].exchanges == len(scored) > 50
    assert found["all"].auc.value > 0.9
    assert found["all"].words is None
    assert found["all"].elsewhere.value == found["colour"].elsewhere.value == 0.5
    assert sum(own.exchanges for name, own in found.items() if name != "all") == len(scored)


def test_scores_are_those_of_the_attribute_loss(cases, tokenizer, debug_config):
    """The same as the matching head on the mean of the chunk's tokens, caption by caption."""
    torch.manual_seed(0)
    config = debug_config()
    model = build_model(config).eval()
    tokens = torch.randn(2, 1, 5, model.image_encoder.feature_width)
    case = next(case for case in cases if len(case.caption.names) > 6)
    with torch.no_grad():
        first = score_chunks(model, case, *tokens, tokenizer, 48)[0]
        ids = torch.tensor(tokenizer(case.caption.text, add_special_tokens=False)["input_ids"])
        ids = torch.cat([torch.tensor([tokenizer.cls_token_id]), ids])[None]
        hidden = model.text_encoder.cross_modal(ids, torch.ones_like(ids), tokens[0])
        chunk = [name for name in case.caption.names if name.part == case.caption.names[0].part]
        places = tokenizer(case.caption.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        own = [1 + n for n, (a, b) in enumerate(places) if any(a < name.end and name.start < b for name in chunk)]
        expected = model.itm_head(hidden[0, own].mean(dim=0))[1]
        likely = []
        for place in own:
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            hidden = model.text_encoder.cross_modal(masked, torch.ones_like(ids), tokens[0])
            likely.append(float(model.word_logits(hidden[0, place]).log_softmax(dim=-1)[ids[0, place]]))
    assert first.attribute == chunk[0].attribute
    assert first.shown == pytest.approx(float(expected), abs=1e-5)
    assert first.shown != first.other != first.other_elsewhere
    assert len(likely) > 1
    assert first.shown_words == pytest.approx(min(likely), abs=1e-5)
    assert first.shown_words != first.other_words < 0


def test_chunks_that_were_cut_off_are_left_out(cases, tokenizer):
    case = max(cases, key=lambda case: len(case.caption.text))
    model = seeing_model(torch.zeros(0))
    whole = score_chunks(model, case, OWN, ELSEWHERE, tokenizer, 48, tells_words=False)
    cut = score_chunks(model, case, OWN, ELSEWHERE, tokenizer, 10, tells_words=False)
    assert 0 < len(cut) < len(whole)


def test_kinds_of_attributes():
    scored = [Scored("bag_colour", 1, 1.0, 0.0, 0.0, 0.0), Scored("bag", 2, 0.0, 1.0, 0.0, 0.0)]
    found = measure_chunks(scored)
    assert {name: (own.pairs.value, own.exchanges) for name, own in found.items()} == {
        "all": (0.5, 2),
        "bag or thing": (0.0, 1),
        "colour": (1.0, 1),
    }
    assert measure_chunks([]) == {}


def test_words_are_measured_where_all_have_them():
    with_words = [Scored("hat", person, 0.0, 0.0, 0.0, 0.0, shown, other) for person, shown, other in WORDS]
    assert measure_chunks(with_words)["garment"].words.value == 0.75
    assert measure_chunks([*with_words, Scored("hat", 3, 0.0, 0.0, 0.0, 0.0)])["garment"].words is None
