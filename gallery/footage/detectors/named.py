"""The detector that a name means."""

from pathlib import Path

from gallery.footage.detectors.onnx_models import onnx_detector
from gallery.footage.detectors.people import Detector
from gallery.footage.detectors.ssdlite import ssdlite_detector
from gallery.footage.detectors.torchvision_models import torchvision_detector
from utils.errors import UserError

DEFAULT = "ssdlite"


def detector_named(name: str, weights: Path | None = None) -> Detector:
    """Load a detector: ssdlite, torchvision:MODEL or onnx:FILE.

    weights: a state_dict for torchvision:MODEL; None = torchvision downloads its own.
    Raises: UserError for an unknown name, a missing file or package.
    """
    kind, _, rest = name.partition(":")
    if weights is not None and kind != "torchvision":
        raise UserError(f"--detector-weights is for torchvision:MODEL, not for {name}")
    if name == DEFAULT:
        return ssdlite_detector()
    if kind == "torchvision" and rest:
        return torchvision_detector(rest, weights)
    if kind == "onnx" and rest:
        return onnx_detector(Path(rest))
    raise UserError(f"no detector {name!r}: {DEFAULT}, torchvision:MODEL or onnx:FILE")
