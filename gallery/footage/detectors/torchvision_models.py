"""Detectors of torchvision that were trained on COCO, e.g. torchvision:fasterrcnn_mobilenet_v3_large_320_fpn."""

from pathlib import Path

import numpy as np
import torch
from torchvision.models import detection as models
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.transforms.v2.functional import to_dtype

from gallery.footage.detectors.people import Detector, People, people
from utils.errors import UserError

PERSON = 1  # of COCO's classes


def torchvision_detector(name: str, weights: Path | None) -> Detector:
    """weights: a file with a state_dict; None = torchvision's own, downloaded once to its cache.

    Raises: UserError for an unknown name, weights that do not fit or cannot be downloaded.
    """
    names = [each for each in list_models(module=models) if "keypoint" not in each]
    if name not in names:
        raise UserError(f"torchvision has no detector {name!r}, but {', '.join(names)}")
    try:
        if weights is None:
            model = get_model(name, weights=get_model_weights(name).DEFAULT)
        else:
            model = get_model(name, weights=None, weights_backbone=None, num_classes=91)
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except OSError as error:  # also a URLError
        raise UserError(f"torchvision:{name}: {error}; --detector-weights FILE takes a file instead") from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{weights or name} does not fit torchvision:{name}: {str(error).splitlines()[0]}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)

    @torch.inference_mode()
    def detect(frame: np.ndarray) -> People:
        pixels = torch.from_numpy(frame).permute(2, 0, 1).to(device)
        (found,) = model([to_dtype(pixels, torch.float32, scale=True)])
        chosen = found["labels"] == PERSON
        boxes, scores = (found[key][chosen].float().cpu().numpy() for key in ("boxes", "scores"))
        return people(boxes, scores, frame, overlapping=False)

    return detect
