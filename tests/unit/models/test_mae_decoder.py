"""The decoder: where tokens go, and that padding of the caption is not read."""

from contextlib import nullcontext

import torch
from torch import nn

from models.image_features import ImageFeatures
from models.joined_weights import joined_once
from models.mae_decoder import Branch, MAEDecoder, Stream
from tests.helpers.dispatch import dispatched


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


def run(decoder: MAEDecoder, once: bool) -> dict[str, torch.Tensor]:
    """Prediction and gradients in bf16."""
    decoder.zero_grad()
    torch.manual_seed(1)
    features = ImageFeatures(torch.randn(2, 8), torch.randn(2, 2, 8))
    args = features, torch.tensor([[0, 4], [1, 2]]), torch.randn(2, 3, 5), torch.ones(2, 3)
    with torch.autocast("cpu", torch.bfloat16), joined_once(decoder, "cpu") if once else nullcontext():
        out = decoder(*args)
    out.float().square().sum().backward()
    return {"out": out.detach(), **{name: parameter.grad for name, parameter in decoder.named_parameters()}}


def test_biases_that_are_left_to_the_norms_change_nothing():
    decoder = build()
    for parameter in decoder.parameters():
        parameter.data += torch.randn_like(parameter) / 10
    want, got = (run(decoder, once) for once in (False, True))
    for name, tensor in want.items():
        assert (got[name] - tensor).norm() <= 2e-2 * tensor.norm(), name  # bfloat16


def test_a_stream_and_its_sum_go_through_a_block_alike():
    block = build().blocks[0]
    residual, rows, bias = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.randn(8)
    stream = Stream(residual, Branch(rows, bias))
    text = torch.randn(2, 3, 5)
    assert torch.equal(block(stream, text, None).whole(), block(stream.whole(), text, None))


def test_operators_of_a_block():
    """Forward: three norms, seven products; no addition and no cast."""
    decoder = build()
    block, stream, text = decoder.blocks[0], Stream(torch.randn(2, 4, 8)), torch.randn(2, 3, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), joined_once(block, "cpu"), dispatched() as operators:
        block(stream, text, None)
    assert operators["add_norm"] == 3
    assert operators["mm"] + operators["addmm"] == 7  # 2 and 3 of the attentions, 2 of the feed-forward
    assert "_to_copy" not in operators
    assert "add" not in operators
