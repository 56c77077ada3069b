"""The decoder: where tokens go, and that padding of the caption is not read."""

import torch
from torch import nn

from models.image_features import ImageFeatures
from models.mae_decoder import MAEDecoder


def build() -> MAEDecoder:
    torch.manual_seed(0)
    return MAEDecoder(num_patches=6, patch_size=2, width=8, text_width=5, depth=2, num_heads=2)


def test_every_patch_is_predicted():
    kept = torch.tensor([[0, 4], [1, 2]])
    features = ImageFeatures(torch.randn(2, 8), torch.randn(2, 2, 8))
    out = build()(features, kept, torch.randn(2, 3, 5), torch.ones(2, 3))
    assert out.shape == (2, 6, 2 * 2 * 3)
    assert out.isfinite().all()


def test_padding_of_the_caption_is_not_read():
    decoder, kept = build(), torch.tensor([[0, 4]])
    features = ImageFeatures(torch.randn(1, 8), torch.randn(1, 2, 8))
    text = torch.randn(1, 3, 5)
    longer = torch.cat([text, torch.full((1, 2, 5), 50.0)], dim=1)
    short = decoder(features, kept, text, torch.ones(1, 3))
    padded = decoder(features, kept, longer, torch.tensor([[1, 1, 1, 0, 0]]))
    torch.testing.assert_close(padded, short, rtol=0, atol=1e-6)
    assert not torch.allclose(decoder(features, kept, longer, torch.ones(1, 5)), short)


def test_kept_tokens_go_to_their_places_and_the_mask_token_to_the_others():
    decoder = build()
    decoder.blocks = nn.ModuleList()  # what goes in comes out, plus the positions, through the prediction
    features = ImageFeatures(torch.randn(1, 8), torch.randn(1, 2, 8))
    out = decoder(features, torch.tensor([[1, 4]]), torch.randn(1, 3, 5), torch.ones(1, 3))
    for patch in range(6):
        token = features.patches[0, (1, 4).index(patch)] if patch in (1, 4) else decoder.mask_token[0, 0]
        expected = decoder.prediction(token + decoder.pos_embed[0, 1 + patch])
        torch.testing.assert_close(out[0, patch], expected, rtol=0, atol=1e-6)
