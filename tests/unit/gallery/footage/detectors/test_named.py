"""Detectors by name, and what they find."""

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from gallery.footage.detectors import DEFAULT, People, detector_named
from gallery.footage.detectors.people import people
from utils.errors import UserError

FRAME = np.zeros((60, 100, 3), np.uint8)


def test_boxes_are_sorted_cut_off_and_not_repeated():
    boxes = np.array([[0, 0, 20, 40], [1, 0, 21, 40], [-9, 30, 50, 99], [5, 5, 5, 40], [60, 0, 90, 50]])
    found = people(boxes, np.array([0.6, 0.9, 0.7, 0.8, 0.01]), FRAME)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.boxes.tolist() == [[1, 0, 21, 40], [0, 30, 50, 60]]
    both = people(boxes[:2], np.array([0.6, 0.9]), FRAME, overlapping=False)
    assert both.scores.tolist() == pytest.approx([0.9, 0.6])


def test_nobody():
    assert people(np.zeros((0, 4)), np.zeros(0), FRAME).boxes.shape == (0, 4)


@pytest.mark.parametrize("name", ["yolo", "torchvision:", "onnx:", "torchvision", ""])
def test_an_unknown_name(name):
    with pytest.raises(UserError, match=f"no detector '{name}': {DEFAULT}, torchvision:MODEL or onnx:FILE"):
        detector_named(name)


def test_weights_are_for_torchvision_alone(tmp_path):
    with pytest.raises(UserError, match="--detector-weights is for torchvision:MODEL"):
        detector_named(DEFAULT, tmp_path / "a.pth")


NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_a_torchvision_model_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():  # everything looks like a person
        model.roi_heads.box_predictor.cls_score.bias[1] += 9
    torch.save(model.state_dict(), tmp_path / "a.pth")
    found = detector_named(f"torchvision:{NAME}", tmp_path / "a.pth")(np.full((90, 160, 3), 128, np.uint8))
    assert isinstance(found, People)
    assert len(found.boxes) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [160, 90, 160, 90]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"a.pth does not fit torchvision:{NAME}"):
        detector_named(f"torchvision:{NAME}", tmp_path / "a.pth")


def test_a_torchvision_model_that_does_not_exist():
    with pytest.raises(UserError, match=f"torchvision has no detector 'fast', but .*{NAME}"):
        detector_named("torchvision:fast")


def test_without_network_it_names_the_way_with_a_file(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("gallery.footage.detectors.torchvision_models.get_model", offline)
    with pytest.raises(UserError, match="no network; --detector-weights FILE takes a file instead"):
        detector_named(f"torchvision:{NAME}")
