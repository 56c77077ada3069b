"""Hard negatives: for each image a text, and for each text an image, of another person. B batch.

Source: ALBEF (arXiv:2107.07651, section 3.2); people instead of pairs as in RaSa (arXiv:2305.13653).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from losses.draws import draw_index


class Negatives(NamedTuple):
    image_index: Tensor  # (B,) for each text the row of an image of another person
    text_index: Tensor  # (B,) for each image the row of a text of another person
    image_valid: Tensor  # (B,) bool, False where the batch holds no other person; the index then means nothing
    text_valid: Tensor  # (B,) bool

    def first(self, rows: int) -> "Negatives":
        return Negatives(*(field[:rows] for field in self))


def negative_weights(logits: Tensor, person_id: Tensor, column_person_id: Tensor | None = None) -> Tensor:
    """Chance of each column to be drawn as negative of each row: (R, B) similarity / temperature -> (R, B).

    The softmax of a row with its own person set to 0, scaled to sum to 1; all 0 where there is no other person.

    Args: person_id: (R,) of the rows. column_person_id: (B,); None = the same.
    """
    columns = person_id if column_person_id is None else column_person_id
    same_person = person_id[:, None] == columns[None, :]
    # Masked before the softmax: at a low temperature all that is left could round to 0 after it.
    lowest = torch.finfo(torch.float32).min
    return logits.float().masked_fill(same_person, lowest).softmax(dim=1).masked_fill(same_person, 0.0)


def draw_negatives(
    logits_i2t: Tensor, logits_t2i: Tensor, person_id: Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Draw one negative text for each image and one negative image for each text, the more similar the likelier.

    Args:
        logits_i2t, logits_t2i: (B, B) similarity / temperature within the batch.
        person_id: (B,).
    """
    with torch.no_grad():
        weights = negative_weights(torch.cat([logits_i2t, logits_t2i]), person_id.repeat(2), person_id)
        text_index, image_index = draw_index(weights, generator).chunk(2)
    valid = (person_id[:, None] != person_id[None, :]).any(dim=1)
    return Negatives(image_index, text_index, valid, valid)
