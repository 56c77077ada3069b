"""Second stage of retrieval: the matching head for the first k images of each text. T texts, I images, P pairs.

The work goes image by image rather than text by text: the keys and values of every layer are computed once for a block
of images, then all pairs of that block are scored. Every process re-ranks the pairs of the images that it holds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evaluation.pair_scoring import Budget, scoring_of
from evaluation.token_store import TokenStore
from models.bert_layers import BertSizes
from models.person_search import PersonSearchModel
from utils.log import progress
from utils.memory import available_bytes

# A CPU is fastest while a layer's output stays near its cache. A GPU wants many tokens at once.
CPU_ACTIVATION_BYTES = 24 * 2**20  # of the tokens inside the feed-forward network
GPU_TOKENS = 2**16
BLOCK_BYTES = {"cpu": 2**30, "cuda": 2**32}  # of a block of images with keys and values; larger blocks are no faster
ROWS_AT_A_TIME = 256  # of the similarity matrix, which may be as large as memory allows
SHARE_OF_MEMORY = 0.2  # of the free memory: for a block of images, and again for the work on its pairs


@torch.inference_mode()
def rerank(
    model: PersonSearchModel,
    tokens: TokenStore,
    input_ids: Sequence[Tensor],
    similarity: Tensor,
    *,
    first_image: int = 0,
    top_k: int,
) -> Tensor:
    """Score the first top_k images of each text with the matching head, as far as their tokens are given.

    Args:
        model: in evaluation mode.
        tokens: of the images first_image, first_image + 1 ...
        input_ids: T of (L,), without padding.
        similarity: (T, I) of the first stage, on the CPU.
        top_k: 0 scores nothing; more than I is the same as I.
    Returns: (T, I), -inf where a pair was not scored.
    """
    scores = torch.full_like(similarity, -torch.inf)
    text, image = _own_pairs(top_candidates(similarity, top_k), first_image, first_image + len(tokens))
    if len(text) == 0:
        return scores
    scorer = model.pair_scorer()
    used, text_index = text.unique(return_inverse=True)
    texts = scorer.text_states([input_ids[row] for row in used.tolist()])
    images, image_index = image.unique(return_inverse=True)
    budget = budget_of(scorer.sizes, len(scorer.layers), tokens.shape, scorer.dtype, scorer.device)
    budget = budget._replace(images=min(budget.images, len(images)))
    parts = []
    with progress(len(text), "re-rank", "pairs") as bar, scoring_of(scorer, texts, budget, tokens.shape[0]) as score:
        for first in range(0, len(images), budget.images):
            block = images[first : first + budget.images]
            begin, end = torch.searchsorted(image_index, torch.tensor([first, first + len(block)])).tolist()
            pairs = text_index[begin:end], image_index[begin:end] - first
            parts.append(score(tokens.read(block - first_image), *pairs, bar.advance))
        scores[text, image] = torch.cat(parts).float().cpu()
    return scores


def top_candidates(similarity: Tensor, top_k: int) -> Tensor:
    """The top_k most similar images of each text, in no order: (T, I) -> (T, k).

    If several images tie for the last place, the first ones in gallery order are taken.
    """
    top_k = min(top_k, similarity.shape[1])
    candidates = torch.empty(len(similarity), top_k, dtype=torch.long)
    if top_k == 0:
        return candidates
    with progress[None](len(similarity), "choose candidates", "captions") as bar:
        for rows, found in zip(similarity.split(ROWS_AT_A_TIME), candidates.split(ROWS_AT_A_TIME), strict=True):
            values, found[:] = rows.topk(top_k, dim=1)
            # topk is free to choose among values that equal the last one
            tied = (rows >= values[:, -1:]).count_nonzero(dim=1) > top_k
            found[tied] = rows[tied].argsort(dim=1, descending=True, stable=True)[:, :top_k]
            bar.advance(len(rows))
    return candidates


def _own_pairs(candidates: Tensor, first: int, end: int) -> tuple[Tensor, Tensor]:
    """Texts (P,) and images (P,) of the candidates (T, k) with first <= image < end, sorted by image."""
    text = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    image = candidates.flatten()
    own = ((first <= image) & (image < end)).nonzero()[:, 0]
    own = own[image[own].argsort(stable=True)]
    return text[own], image[own]


def budget_of(
    sizes: BertSizes, num_layers: int, image_shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Budget:
    """What the memory that is free now allows.

    Args:
        sizes: of the text encoder.
        num_layers: layers with cross-attention.
        image_shape: number of tokens of an image, and their width.
        dtype: of the matrix products.
    """
    share = int(SHARE_OF_MEMORY * available_bytes(device))
    num_tokens, width = image_shape
    per_image = num_tokens * (width + num_layers * 2 * sizes.hidden_size) * dtype.itemsize  # tokens, keys, values
    # float32 bytes that the attention or the feed-forward network of one layer holds at a time, a generous estimate
    per_token = 4 * (2 * sizes.intermediate_size + 8 * sizes.hidden_size)
    most = GPU_TOKENS if device.type == "cuda" else CPU_ACTIVATION_BYTES // (4 * sizes.intermediate_size)
    images = min(share, BLOCK_BYTES[device.type]) // per_image
    return Budget(max(1, images), max(1, min(most, share // per_token)))
