"""The draws of one step, made again by another.

`losses.draws.draw_index` draws negatives and words by weights that a step has computed. Two steps that compute them in
another order differ in the last digit, and now and then a random number falls between the two. One word of hundreds is
then its neighbour in the vocabulary, and the loss differs by what that word makes: by 1e-3, where all else agrees to
1e-6. To compare two steps, the second one takes the draws of the first.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

import losses.mrtd
import losses.negatives
from losses.draws import draw_index

DRAWING = (losses.mrtd, losses.negatives)  # the modules that call draw_index


class SameDraws:
    """What draw_index draws in a step, and in the steps after it.

    draws = SameDraws()
    with draws.of_a_step():
        ...  # draws by its own weights
    with draws.of_a_step():
        ...  # takes the same; draws.others says how many it would have drawn otherwise
    """

    def __init__(self) -> None:
        self._drawn: list[Tensor] = []
        self.others = 0

    @property
    def number(self) -> int:
        """Of the indices that a step draws."""
        return sum(len(index) for index in self._drawn)

    @contextmanager
    def of_a_step(self) -> Iterator[None]:
        is_first, self.others = not self._drawn, 0
        calls = 0

        def draw(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
            nonlocal calls
            own = draw_index(weights, generator)
            if is_first:
                self._drawn.append(own)
            drawn = self._drawn[calls]
            calls += 1
            torch.manual_seed(calls)  # so that later draws do not depend on how many numbers this one took
            self.others += int((own[: len(drawn)] != drawn).sum())
            return torch.cat([drawn, own[len(drawn) :]])  # on a GPU a step rounds its number of words up

        with ExitStack() as patched:
            for module in DRAWING:
                patched.enter_context(patch.object(module, "draw_index", draw))
            yield
