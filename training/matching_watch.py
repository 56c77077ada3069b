"""A warning where the matching head learns nothing: its loss then stays at the entropy of one match in three."""

import logging
import math
from collections.abc import Mapping

logger = logging.getLogger(__name__)

CHANCE = math.log(3) - 2 / 3 * math.log(2)  # of one match and two drawn negatives, in nats
NEAR = 0.01  # relative distance that counts as chance
SHARE_OF_THE_RUN = 0.25
BLOCKS = 40  # into which a run is cut: a block's mean is steadier than a step's loss


class MatchingWatch:
    """Warn once when itm was near chance for a quarter of the run without a break.

    total_steps: of the run; one of less than BLOCKS is not watched. Steps before a resume are forgotten.
    """

    def __init__(self, total_steps: int) -> None:
        self._size = total_steps // BLOCKS  # steps of a block
        self._wanted = math.ceil(SHARE_OF_THE_RUN * total_steps / self._size) if self._size else 0  # blocks
        self._block: list[float] = []
        self._blocks_at_chance = 0

    def see(self, losses: Mapping[str, float]) -> None:
        """Take the losses of a step, those of a run without itm too."""
        if not self._wanted or "itm" not in losses:
            return
        self._block.append(losses["itm"])
        if len(self._block) < self._size:
            return
        mean = sum(self._block) / len(self._block)
        self._block = []
        self._blocks_at_chance = self._blocks_at_chance + 1 if abs(mean / CHANCE - 1) < NEAR else 0
        if self._blocks_at_chance == self._wanted:
            logger.warning(
                "itm has stayed at %.4f, which is chance, for a quarter of the run: the matching head learns nothing "
                "so far; docs/training.md says how matching takes off",
                CHANCE,
            )
            self._wanted = 0  # said
