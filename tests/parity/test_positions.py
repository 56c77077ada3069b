"""Position embeddings at another resolution, against the published interpolation and F.interpolate by hand.

The published code takes row 0 for the class token's, though a Vim has it in the middle (row M // 2): so the vectors are
met with the class row in front, and by ours where the rows are moved to where the published code believes them to be.
"""

import pytest
import torch
from torch.nn import functional as F

from models.positions import resize_positions
from models.vision_mamba import VisionMamba
from tests.helpers.vectors import load_case, starting_with

EXACT = {"rtol": 0, "atol": 1e-6}  # float32
F32 = {"rtol": 1e-4, "atol": 2e-5}


def to_middle(rows: torch.Tensor) -> torch.Tensor:
    """Row 0 to M // 2."""
    middle = (rows.shape[1] - 1) // 2
    return torch.cat([rows[:, 1 : middle + 1], rows[:, :1], rows[:, middle + 1 :]], dim=1)


def test_the_same_resolution_changes_nothing():
    _, tensors = load_case("vim_interpolate/img64_to_img64")
    own = VisionMamba(image_size=(64, 64), width=32, depth=1).resize_pos_embed(tensors["w.pos_embed"])
    assert torch.equal(own, tensors["new_pos_embed"])


def test_a_larger_square_with_the_row_in_front_that_the_published_code_takes_for_the_class_tokens():
    _, tensors = load_case("vim_interpolate/img64_to_img96")
    own = resize_positions(tensors["w.pos_embed"], (6, 6), class_row_in_middle=False)
    torch.testing.assert_close(own, tensors["new_pos_embed"], **EXACT)


def test_a_larger_square_with_that_row_moved_to_the_middle():
    _, tensors = load_case("vim_interpolate/img64_to_img96")
    encoder = VisionMamba(image_size=(96, 96), width=32, depth=1)
    own = encoder.resize_pos_embed(to_middle(tensors["w.pos_embed"]))
    torch.testing.assert_close(own, to_middle(tensors["new_pos_embed"]), **EXACT)
    assert not torch.allclose(encoder.resize_pos_embed(tensors["w.pos_embed"]), tensors["new_pos_embed"], atol=1e-3)


@pytest.mark.parametrize(("case", "size"), [("img64_to_img64", 64), ("img64_to_img96", 96)])
def test_the_forward_pass_after_it(case, size):
    _, tensors = load_case(f"vim_interpolate/{case}")
    weights = {name: w for name, w in starting_with(tensors, "w.").items() if not name.startswith("head.")}
    encoder = VisionMamba(image_size=(size, size), width=32, depth=2).eval()
    encoder.load_state_dict(weights | {"pos_embed": tensors["new_pos_embed"]})
    features = encoder(tensors["images"])
    torch.testing.assert_close(features.pooled.detach(), tensors["feature"], **F32)


def test_a_square_to_a_rectangle_by_hand():
    """14 x 14 to 24 x 8, as for people's true shape; the class row stays in the middle and unchanged."""
    torch.manual_seed(0)
    rows = torch.randn(1, 197, 5)
    own = VisionMamba(image_size=(384, 128), width=5, depth=1).resize_pos_embed(rows)
    assert own.shape == (1, 193, 5)
    assert torch.equal(own[:, 96], rows[:, 98])
    grid = torch.cat([rows[0, :98], rows[0, 99:]]).T.reshape(1, 5, 14, 14)
    expected = F.interpolate(grid, size=(24, 8), mode="bicubic", align_corners=False)[0]
    for row, column in ((0, 0), (11, 7), (12, 0), (23, 7)):
        place = row * 8 + column
        torch.testing.assert_close(own[0, place + (place >= 96)], expected[:, row, column], **EXACT)
