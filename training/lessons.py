"""Before the online passes: the random draws of all objectives and the momentum encoder's answers. No gradient.

B pairs, n of them for all objectives but itc, L tokens, M places, V vocabulary.
Source: momentum distillation of ALBEF (arXiv:2107.07651, section 3.3).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from dataset.batches import TrainBatch
from losses.objective import Embeddings, Lesson, Objective, Question
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel


@torch.no_grad()
def prepare_lesson(
    batch: TrainBatch,
    num_pairs: int,
    model: PersonSearchModel,
    momentum_encoder: MomentumEncoder,
    objectives: Sequence[Objective],
    own_numbers: Mapping[str, int] = MappingProxyType({}),
) -> Lesson:
    """One momentum pass of the images, one of the texts, and a cross-modal pass that answers all questions.

    Args: num_pairs: n. own_numbers: of the objectives that see another number of pairs, by key.
    """
    firsts = {number: batch.first(number) for number in {num_pairs, *own_numbers.values()}}
    numbers = {each.key: own_numbers.get(each.key, num_pairs) for each in objectives}
    own_pairs = {key: firsts[number] for key, number in numbers.items()}
    text = batch.text_2
    features, image_embedding = momentum_encoder.encode_image(model.normalize(batch.image_2))
    text_embedding = momentum_encoder.encode_text(text.input_ids, text.attention_mask, at_most=text.tokens().at_most)
    asked = {each.key: each.ask(own_pairs[each.key]) for each in objectives}
    questions = {key: question for key, question in asked.items() if question is not None}
    answers: dict[str, Tensor] = {}
    for number, pairs in firsts.items():
        of_these = {key: question for key, question in questions.items() if numbers[key] == number}
        answers |= _answers(of_these, pairs, features.tokens[:number], momentum_encoder)
    return Lesson(
        batch=batch,
        pairs=firsts[num_pairs],
        own_pairs=own_pairs,
        image=model.normalize(batch.image_1),
        momentum=Embeddings(image_embedding, text_embedding, batch.person_id),
        prepared={
            each.key: each.prepare(own_pairs[each.key], questions.get(each.key), answers.get(each.key))
            for each in objectives
        },
    )


def _answers(
    questions: dict[str, Question], pairs: TrainBatch, image_tokens: Tensor, momentum_encoder: MomentumEncoder
) -> dict[str, Tensor]:
    """Logits (M, V) by the key of the objective that asked."""
    if not questions:
        return {}
    questions = dict(sorted(questions.items(), key=lambda item: item[1].for_next_image))  # those for other images last
    logits = momentum_encoder.predict_tokens(
        [question.input_ids for question in questions.values()],
        pairs.text_1.attention_mask,
        image_tokens,
        [question.places for question in questions.values()],
        for_next_images=sum(question.for_next_image for question in questions.values()),
        at_most=pairs.text_1.tokens().at_most,
    )
    return dict(zip(questions, logits, strict=True))
