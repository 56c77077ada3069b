"""The online passes that all objectives share: one of the images, one of the texts, one cross-modal pass.

B pairs, n of them for all objectives but itc, I images, K image tokens, L tokens, D width, E embedding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dataset.texts import Places, TextRows, Texts, join_rows
from losses.negatives import Negatives, draw_negatives
from losses.objective import Lesson, Objective, Passes
from models.person_search import PersonSearchModel
from models.text_encoder import TextFeatures


def run_passes(
    model: PersonSearchModel, lesson: Lesson, objectives: Sequence[Objective], hardness: float | Tensor = 1.0
) -> Passes:
    """What the online model makes of a lesson, for the objectives that are on. hardness: of the drawn negatives."""
    num_pairs = len(lesson.pairs.person_id)
    image_features, image_embedding = model.encode_image(lesson.image)
    text_features = _text_mode(model, lesson, objectives)
    text_embedding = model.embed_text(text_features)
    negatives = _draw_negatives(model, lesson, image_embedding, text_embedding, hardness).first(num_pairs)
    own = lesson.pairs.text_2
    pair_texts = [own, lesson.batch.text_2.chosen(negatives.text_index), own]
    pair_hidden, own_hidden = _cross_modal(model, lesson, objectives, image_features.tokens, negatives, pair_texts)
    return Passes(
        image_embedding=image_embedding,
        text_embedding=text_embedding,
        text_tokens=text_features.tokens[:num_pairs],
        negatives=negatives,
        pair_chunks=torch.cat([texts.attribute_ids for texts in pair_texts]),
        pair_hidden=pair_hidden,
        pair_class=None if pair_hidden is None else pair_hidden[:, 0],
        own_hidden=own_hidden,
    )


def _text_mode(model: PersonSearchModel, lesson: Lesson, objectives: Sequence[Objective]) -> TextFeatures:
    """Of the weak positives: [CLS] of all, and every token of the first n where an objective reads them."""
    text, pairs = lesson.batch.text_2, lesson.pairs.text_2
    wanted = text.class_tokens()
    if any(objective.reads_text for objective in objectives):
        num_pairs, all_of_them = len(pairs.input_ids), pairs.tokens()
        at_most = None if all_of_them.at_most is None else all_of_them.at_most + len(text.input_ids) - num_pairs
        wanted = Places(torch.cat([all_of_them.mask, wanted.mask[num_pairs:]]), at_most)
    return model.text_encoder(text.input_ids, text.attention_mask, at_most=text.tokens().at_most, wanted=wanted)


@torch.no_grad()
def _draw_negatives(
    model: PersonSearchModel,
    lesson: Lesson,
    image_embedding: Tensor,
    text_embedding: Tensor,
    hardness: float | Tensor,
) -> Negatives:
    momentum = lesson.momentum
    # Without autocast: products in bf16, divided by a temperature near 0.05, would be off by several hundredths.
    with torch.autocast(image_embedding.device.type, enabled=False):
        logits_i2t = image_embedding.float() @ momentum.text.float().T / model.temperature
        logits_t2i = text_embedding.float() @ momentum.image.float().T / model.temperature
    # Logits of 0 make all other people of the batch equally likely.
    return draw_negatives(hardness * logits_i2t, hardness * logits_t2i, momentum.person_id)


def _cross_modal(
    model: PersonSearchModel,
    lesson: Lesson,
    objectives: Sequence[Objective],
    image_tokens: Tensor,
    negatives: Negatives,
    pair_texts: Sequence[Texts],
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Hidden states of the 3n pairs (3n, L, D), and of the objectives' own rows by key.

    One pass over all rows of the n pairs, and one more for each other number of pairs that an objective sees.
    """
    n = len(lesson.pairs.person_id)
    rows: dict[int, dict[str, TextRows]] = {n: {}}  # by the number of pairs
    for each in objectives:
        if each.has_rows:
            pairs = lesson.own_pairs[each.key]
            rows.setdefault(len(pairs.person_id), {})[each.key] = each.rows(pairs, lesson.prepared[each.key])
    pair_rows: list[TextRows] = []
    if any(objective.sees_pairs for objective in objectives):
        with_chunks = any(objective.sees_chunks for objective in objectives)
        pair_rows = [_pair_rows(texts, with_chunks) for texts in pair_texts]
    pair_hidden, own_hidden = _pass(model, rows.pop(n), pair_rows, image_tokens, n, negatives.image_index)
    for number, others in rows.items():
        own_hidden |= _pass(model, others, [], image_tokens, number)[1]
    return pair_hidden, own_hidden


def _pass(
    model: PersonSearchModel,
    rows: Mapping[str, TextRows],
    pair_rows: Sequence[TextRows],
    image_tokens: Tensor,
    n: int,
    wrong_image: Tensor | None = None,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Rows go with their own images, the first n, but for the last n of the pairs: texts with a wrong image (n,)."""
    if not rows and not pair_rows:
        return None, {}
    if not pair_rows:
        image_tokens, wrong_image = image_tokens[:n], None
    elif 2 * n < len(image_tokens):  # only these images are looked at: no keys and values for others
        image_tokens = torch.cat([image_tokens[:n], image_tokens[wrong_image]])
        wrong_image = n + torch.arange(n, device=image_tokens.device)
    ids, tokens, wanted = join_rows([*rows.values(), *pair_rows])
    hidden = model.text_encoder.cross_modal(
        ids, tokens.mask, image_tokens, wrong_image, own_images=n, at_most=tokens.at_most, wanted=wanted
    )
    *own, of_pairs = hidden.split([*(len(part.input_ids) for part in rows.values()), n * len(pair_rows)])
    own_hidden = {
        key: states[:, : part.input_ids.shape[1]] for (key, part), states in zip(rows.items(), own, strict=True)
    }
    return of_pairs if pair_rows else None, own_hidden


def _pair_rows(texts: Texts, with_chunks: bool) -> TextRows:
    wanted = texts.class_and_chunk_tokens() if with_chunks else texts.class_tokens()
    return TextRows(texts.input_ids, texts.tokens(), wanted)
