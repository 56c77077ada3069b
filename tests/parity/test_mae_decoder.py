"""The MAE decoder's blocks against the published CrossTransformer: output and gradients in float64."""

import torch

from models.mae_decoder import DecoderBlock
from tests.helpers.vectors import load_case, starting_with

F64 = {"rtol": 1e-8, "atol": 1e-8}
RENAMED = {"to_out.0": "to_out", "ff.net.0.l": "ff.expand", "ff.net.2": "ff.contract"}


def own_name(published: str) -> str:
    for theirs, ours in RENAMED.items():
        published = published.replace(theirs, ours)
    return published.removeprefix("blocks.")


def test_decoder_blocks():
    description, tensors = load_case("losses_mae/a")
    sizes = description["decoder"]
    blocks = torch.nn.ModuleList(
        DecoderBlock(sizes["dim"], sizes["context_dim"], sizes["heads"], sizes["dim_head"])
        for _ in range(sizes["depth"])
    ).double()
    blocks.load_state_dict({own_name(name): w.double() for name, w in starting_with(tensors, "dec.w.").items()})
    x, context = (tensors[f"dec.{name}"].double().requires_grad_() for name in ("x", "context"))
    out = x
    for block in blocks:
        out = block(out, context, None)
    torch.testing.assert_close(out, tensors["dec.f64.out"], **F64)
    (out * tensors["dec.grad_w"].double()).sum().backward()
    expected = {own_name(name): g for name, g in starting_with(tensors, "dec.f64.grad.").items()}
    torch.testing.assert_close(x.grad, expected.pop("x"), **F64)
    torch.testing.assert_close(context.grad, expected.pop("context"), **F64)
    gradients = {name: parameter.grad for name, parameter in blocks.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, **F64)


def test_padding_of_the_text_is_not_attended_to():
    torch.manual_seed(0)
    block = DecoderBlock(16, 24, 4, 4)
    x, text = torch.randn(2, 5, 16), torch.randn(2, 6, 24)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    changed = text.masked_fill(~mask[..., None], 7.0)
    torch.testing.assert_close(block(x, text, mask[:, None, None]), block(x, changed, mask[:, None, None]))
