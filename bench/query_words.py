"""What becomes of a sentence when some of its words are not understood: they are replaced by words of no meaning."""

import numpy as np

from bench.query_gallery import SEED, Drawn, first
from bench.rows import Rows
from gallery.search.words import FUNCTION_WORDS, trust_in

CAPTIONS = 400
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NONSENSE = (
    "asdf zxcvb hjkl sdfsdf lkjh bklfj wqeoiu plmokn jacke schwarze snorf florp frumious kwijibo glorp veste rojo"
)


def replaced(text: str, share: float, generator: np.random.Generator) -> tuple[str, list[str]]:
    """The text with a share of its words replaced, function words aside, and the new words."""
    words = text.split()
    places = [place for place, word in enumerate(words) if word not in FUNCTION_WORDS.split()]
    chosen = generator.permutation(places)[: round(share * len(places))]
    for place in chosen:
        words[place] = str(generator.choice(NONSENSE.split()))
    return " ".join(words), [words[place] for place in chosen]


def bench(drawn: Drawn, people: dict[int, dict[str, str]]) -> None:
    captions = drawn.captions(CAPTIONS)
    values = ("trust", "R@1", "R@10", "R@1 left", "R@10 left", "best sim.")
    rows = Rows({"share": 6}, values, title=f"words replaced, {len(captions)} captions", width=9)
    at_first: tuple[float, float] | None = None
    for share in SHARES:
        generator = np.random.default_rng(SEED)
        changed = [replaced(caption.text, share, generator) for caption in captions]
        trust = np.mean([trust_in(text, unknown) for text, unknown in changed])
        similarity = drawn.embed([text for text, _ in changed]) @ drawn.vectors.T
        right = [
            drawn.person_id[first(row, 10)] == caption.person_id
            for row, caption in zip(similarity, captions, strict=True)
        ]
        found = float(np.mean([row[0] for row in right])), float(np.mean([row.any() for row in right]))
        at_first = at_first or found
        left = [now / max(before, 1e-9) for now, before in zip(found, at_first, strict=True)]
        cells = [f"{trust:.2f}", *(f"{100 * value:.1f}" for value in found), *(f"{value:.2f}" for value in left)]
        rows.add(f"{share:.0%}", *cells, f"{similarity.max(axis=1).mean():.3f}")
