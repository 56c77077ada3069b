"""Random draws: shares, exceptions, determinism. The shares are checked within about five standard deviations."""

import pytest
import torch

from losses.mae import draw_kept_patches, kept_patches
from losses.masking import mask_tokens
from losses.mrtd import apply_replacement, places_of_words, replaced_tokens
from losses.negatives import draw_negatives, negative_weights

CLS, MASK, VOCAB = 2, 4, 1000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def captions(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[CLS], words 10..999, and in every second row padding from the middle on."""
    ids = torch.randint(10, VOCAB, (rows, length), generator=seeded(9))
    ids[:, 0] = CLS
    attention_mask = torch.ones(rows, length, dtype=torch.long)
    attention_mask[1::2, length // 2 :] = 0
    return ids * attention_mask, attention_mask


def test_negative_weights_by_hand():
    weights = negative_weights(torch.tensor([[9.0, 0.0, 0.0, 9.0]] * 4).log1p(), torch.tensor([1, 2, 3, 1]))
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.5, 0.5, 0.0]))
    torch.testing.assert_close(weights[1], torch.tensor([10 / 21, 0.0, 1 / 21, 10 / 21]))


def test_weights_survive_a_low_temperature():
    """The own pair is 2000 ahead of all others, so that exp of their difference is 0."""
    logits = torch.tensor([[1000.0, -1000.0, -1001.0]])
    weights = negative_weights(logits.expand(3, 3), torch.tensor([1, 2, 3]))
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 1.0, torch.e**-1]) / (1 + torch.e**-1))


def test_negatives_are_other_people_drawn_by_their_weights():
    person_id = torch.tensor([1, 2, 3, 1])
    logits_i2t = torch.randn(4, 4, generator=seeded(1))
    logits_t2i = torch.randn(4, 4, generator=seeded(2))
    generator = seeded(3)
    text_count, image_count = torch.zeros(4, 4), torch.zeros(4, 4)
    for _ in range(2000):
        negatives = draw_negatives(logits_i2t, logits_t2i, person_id, generator)
        text_count[torch.arange(4), negatives.text_index] += 1
        image_count[torch.arange(4), negatives.image_index] += 1
    assert negatives.image_valid.all()
    assert negatives.text_valid.all()
    for count, logits in ((text_count, logits_i2t), (image_count, logits_t2i)):
        weights = negative_weights(logits, person_id)
        assert not count[weights == 0].any()
        torch.testing.assert_close(count / 2000, weights, rtol=0, atol=0.056)


def test_logits_of_zero_make_all_other_people_equally_likely():
    """What `training.passes` does with them where negatives are to be drawn at random."""
    weights = negative_weights(0.0 * torch.randn(3, 3, generator=seeded()), torch.tensor([1, 2, 1]))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))


def test_a_batch_of_one_person_has_no_valid_negative_and_does_not_crash():
    negatives = draw_negatives(torch.zeros(3, 3), torch.zeros(3, 3), torch.tensor([5, 5, 5]), seeded())
    assert not negatives.image_valid.any()
    assert not negatives.text_valid.any()
    assert ((negatives.image_index >= 0) & (negatives.image_index < 3)).all()
    assert ((negatives.text_index >= 0) & (negatives.text_index < 3)).all()


def test_nan_logits_give_indices_within_the_batch():
    """So that the step ends at the check of the losses, which names one, and not in an index error."""
    nan = torch.full((3, 3), torch.nan)
    negatives = draw_negatives(nan, nan, torch.tensor([5, 6, 7]), seeded())
    assert ((negatives.image_index >= 0) & (negatives.image_index < 3)).all()
    assert ((negatives.text_index >= 0) & (negatives.text_index < 3)).all()


def test_negatives_carry_no_gradient():
    logits = torch.zeros(3, 3, requires_grad=True)
    assert not draw_negatives(logits, logits, torch.tensor([1, 2, 3]), seeded()).image_index.requires_grad


def test_masked_share_and_its_parts():
    ids, attention_mask = captions(200, 100)
    tokens = mask_tokens(
        ids, attention_mask, probability=0.15, vocab_size=VOCAB, mask_id=MASK, cls_id=CLS, generator=seeded()
    )
    masked = tokens.labels != -100
    words = attention_mask.bool() & (ids != CLS)
    assert not masked[~words].any()
    torch.testing.assert_close(tokens.labels[masked], ids[masked])
    torch.testing.assert_close(tokens.input_ids[~masked], ids[~masked])
    assert masked.sum() / words.sum() == pytest.approx(0.15, abs=0.015)
    to_mask_token = (tokens.input_ids[masked] == MASK).float().mean()
    kept = (tokens.input_ids[masked] == ids[masked]).float().mean()
    assert to_mask_token.item() == pytest.approx(0.8, abs=0.045)
    assert kept.item() == pytest.approx(0.1, abs=0.035)  # 10 %, and the random words that hit the old one
    random_words = tokens.input_ids[masked & (tokens.input_ids != MASK) & (tokens.input_ids != ids)]
    assert len(random_words.unique()) > 150  # about 210 draws from 1000 words


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_masking_nothing_and_everything(probability):
    ids, attention_mask = captions(4, 10)
    tokens = mask_tokens(ids, attention_mask, probability=probability, vocab_size=VOCAB, mask_id=MASK, cls_id=CLS)
    words = attention_mask.bool() & (ids != CLS)
    torch.testing.assert_close(tokens.labels != -100, words & (probability == 1.0))


def test_replaced_words_follow_the_momentum_distribution():
    """Word 11 with chance 3/4, word 12 with 1/4, at every place."""
    ids, attention_mask = torch.full((100, 21), 11), torch.ones(100, 21, dtype=torch.long)
    ids[:, 0] = CLS
    logits = torch.full((2000, 20), -torch.inf)
    logits[..., 11], logits[..., 12] = torch.tensor(3.0).log(), 0.0
    tokens = replaced_tokens(logits, places_of_words(ids, attention_mask, cls_id=CLS), ids, generator=seeded())
    assert set(tokens.input_ids[:, 1:].unique().tolist()) == {11, 12}
    share = (tokens.input_ids[:, 1:] == 12).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(tokens.labels[:, 1:], (tokens.input_ids[:, 1:] == 12).long())


def test_draws_from_a_whole_vocabulary_are_unbiased():
    """30522 equally likely words: the mean index of 2000 draws is the middle, with a standard error of 197."""
    ids = torch.full((20, 100), 1)
    places = places_of_words(ids, torch.ones_like(ids), cls_id=CLS)
    drawn = replaced_tokens(torch.zeros(1, 30522).expand(2000, -1), places, ids, generator=seeded()).input_ids
    assert drawn.double().mean().item() == pytest.approx(15261, abs=1000)
    assert drawn.min() < 300
    assert drawn.max() > 30222


def test_only_cls_and_padding_are_kept_and_ignored():
    ids = torch.tensor([[CLS, 11, 12, 13, 0, 0]])
    attention_mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    tokens = apply_replacement(torch.tensor([11, CLS, 0]), places_of_words(ids, attention_mask, cls_id=CLS), ids)
    assert tokens.input_ids.tolist() == [[CLS, 11, CLS, 0, 0, 0]]
    assert tokens.labels.tolist() == [[-100, 0, 1, 1, -100, -100]]


def test_kept_patches_by_hand():
    patches = kept_patches(torch.tensor([[0.1, 0.9, 0.5, 0.0], [0.7, 0.6, 0.8, 0.9]]), 0.5)
    assert patches.kept.tolist() == [[0, 3], [0, 1]]
    assert patches.masked.tolist() == [[False, True, True, False], [False, False, True, True]]


@pytest.mark.parametrize(
    ("num_patches", "mask_ratio", "num_kept"),
    [(196, 0.5, 98), (576, 0.75, 144), (10, 0.9, 1), (20, 0.9, 2), (5, 0.5, 2), (4, 0.99, 1), (4, 0.0, 4)],
)
def test_number_of_kept_patches(num_patches, mask_ratio, num_kept):
    patches = draw_kept_patches(3, num_patches, mask_ratio, generator=seeded())
    assert patches.kept.shape == (3, num_kept)
    assert (patches.masked.sum(dim=1) == num_patches - num_kept).all()
    assert (patches.kept.diff(dim=1) > 0).all()


def test_every_patch_is_kept_equally_often():
    masked = draw_kept_patches(4000, 8, 0.75, generator=seeded()).masked
    torch.testing.assert_close(masked.float().mean(dim=0), torch.full((8,), 0.75), rtol=0, atol=0.035)


@pytest.mark.parametrize("mask_ratio", [-0.1, 1.0])
def test_impossible_mask_ratio_is_refused(mask_ratio):
    with pytest.raises(ValueError, match="mask_ratio must be in"):
        kept_patches(torch.rand(1, 4), mask_ratio)


def test_the_generator_decides_every_draw():
    ids, attention_mask = captions(4, 10)
    places = places_of_words(ids, attention_mask, cls_id=CLS)
    logits = torch.randn(len(places), 50, generator=seeded(5))
    person_id = torch.arange(4)

    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        return [
            *draw_negatives(logits[:4, :4], logits[4:8, :4], person_id, generator),
            *mask_tokens(
                ids, attention_mask, probability=0.5, vocab_size=VOCAB, mask_id=MASK, cls_id=CLS, generator=generator
            ),
            *replaced_tokens(logits, places, ids, generator=generator),
            *draw_kept_patches(4, 16, 0.5, generator=generator),
        ]

    first, again, other = draw(seeded(0)), draw(seeded(0)), draw(seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
