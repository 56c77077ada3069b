"""Detectors in ONNX files, as the YOLO family exports them: class 0 is a person, as in COCO.

The input is (1, 3, H, W), RGB in [0, 1], the frame scaled to fit and padded with grey. The outputs that are read, with
boxes in pixels of that input and C classes:

- (1, 4 + C, N), as of YOLOv8: centre x, centre y, width, height, then the scores of the classes;
- (1, N, 5 + C), as of YOLOv5: the same with an objectness before the scores, which multiplies them;
- (1, N, 6), end to end, with N of at most MOST_END_TO_END: x0, y0, x1, y1, score, class; no box is repeated. With more
  it is read as of YOLOv5 with one class, which has N = 25,200 at 640 px.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from gallery.footage.detectors.people import Detector, People, people
from utils.errors import UserError
from utils.extras import optional

PERSON = 0  # of the classes
GREY = 114  # around the frame
SIZE = 640  # of the input, where the file leaves it open
MOST_END_TO_END = 1000  # boxes; models give 100 to 300


def onnx_detector(path: Path) -> Detector:
    """Raises: UserError if the file is missing or no model, or if its input or output is another."""
    runtime = optional("onnxruntime", "a detector in an ONNX file", "pip install onnxruntime")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        session = runtime.InferenceSession(str(path), providers=runtime.get_available_providers())
    except Exception as error:  # onnxruntime's errors share no other class
        raise UserError(f"{path} is not a model that onnxruntime can load: {str(error).splitlines()[0]}") from error
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or len(output.shape) != 3:
        raise UserError(f"{path} takes {shape} and gives {output.shape}; (1, 3, H, W) to (1, boxes, values) is read")
    height, width = (side if isinstance(side, int) else SIZE for side in shape[2:])
    kind = np.float16 if inputs[0].type == "tensor(float16)" else np.float32

    def detect(frame: np.ndarray) -> People:
        pixels, scale, corner = _fitted(frame, height, width)
        (raw,) = session.run([output.name], {inputs[0].name: pixels.astype(kind)})
        boxes, scores, overlapping = _read(raw[0].astype(np.float32))
        boxes = (boxes - np.tile(corner, 2)) / scale
        return people(boxes, scores, frame, overlapping=overlapping)

    return detect


def _fitted(frame: np.ndarray, height: int, width: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Scale a frame to fit and pad it: (1, 3, height, width) in [0, 1], the scale, and where its corner lies (2,)."""
    scale = min(height / frame.shape[0], width / frame.shape[1])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = Image.new("RGB", (width, height), (GREY,) * 3)
    canvas.paste(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR), (left, top))
    pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255
    return pixels, scale, np.array([left, top], np.float32)


def _read(output: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Boxes (n, 4) with corners, scores (n,) of people, and whether boxes are repeated, from one of the layouts."""
    if output.shape[1] == 6 and len(output) <= MOST_END_TO_END:
        chosen = output[output[:, 5].round() == PERSON]
        return chosen[:, :4], chosen[:, 4], False
    if output.shape[0] < output.shape[1]:
        rows = output.T
        scores = rows[:, 4 + PERSON]
    else:
        rows = output
        scores = rows[:, 4] * rows[:, 5 + PERSON]
    half = rows[:, 2:4] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1), scores, True
