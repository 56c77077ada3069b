"""Before the online passes: the random draws of all objectives and the momentum encoder's answers. No gradient.

B pairs, n of them for all objectives but itc, L tokens, M places, V vocabulary.
Source: momentum distillation of ALBEF (arXiv:2107.07651, section 3.3).
"""

from collections.abc import Sequence

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
) -> Lesson:
    """One momentum pass of the images, one of the texts, and one cross-modal pass that answers all questions."""
    pairs = batch.first(num_pairs)
    text = batch.text_2
    features, image_embedding = momentum_encoder.encode_image(model.normalize(batch.image_2))
    text_embedding = momentum_encoder.encode_text(text.input_ids, text.attention_mask, at_most=text.tokens().at_most)
    questions = {each.key: question for each in objectives if (question := each.ask(pairs)) is not None}
    answers = _answers(questions, pairs, features.tokens[:num_pairs], momentum_encoder)
    return Lesson(
        batch=batch,
        pairs=pairs,
        image=model.normalize(batch.image_1),
        momentum=Embeddings(image_embedding, text_embedding, batch.person_id),
        prepared={each.key: each.prepare(pairs, questions.get(each.key), answers.get(each.key)) for each in objectives},
    )


def _answers(
    questions: dict[str, Question], pairs: TrainBatch, image_tokens: Tensor, momentum_encoder: MomentumEncoder
) -> dict[str, Tensor]:
    """Logits (M, V) by the key of the objective that asked."""
    if not questions:
        return {}
    logits = momentum_encoder.predict_tokens(
        [question.input_ids for question in questions.values()],
        pairs.text_1.attention_mask,
        image_tokens,
        [question.places for question in questions.values()],
        at_most=pairs.text_1.tokens().at_most,
    )
    return dict(zip(questions, logits, strict=True))
