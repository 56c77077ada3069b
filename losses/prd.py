"""Positive relation detection (PRD): was the caption replaced by another one of the same person?

B positive pairs. Source: RaSa (arXiv:2305.13653), relation-aware learning.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from losses.objective import Objective, Step
from losses.precision import at_least_float32


def prd_loss(logits: Tensor, replaced: Tensor) -> Tensor:
    """Cross-entropy of "was the caption replaced by another one of the same person?", in nats, mean over B.

    Args: logits (B, 2) of the positive pairs, second column = replaced; replaced (B,) 0 or 1.
    """
    return F.cross_entropy(at_least_float32(logits), replaced)


class PRD(Objective[None]):
    key = "prd"
    sees_pairs = True

    def heads(self, text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"prd_head": nn.Linear(text_width, 2)}

    def loss(self, step: Step, prepared: None) -> Tensor:
        assert step.passes.pair_class is not None
        replaced = step.lesson.pairs.replaced  # (n,), and the positives come first
        return prd_loss(step.model.head("prd_head")(step.passes.pair_class[: len(replaced)]), replaced)
