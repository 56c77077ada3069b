"""Output layouts of the YOLO family, from models that give the same answer to every frame."""

import numpy as np
import pytest

from gallery.footage.detectors import detector_named
from gallery.footage.detectors.onnx_models import GREY, _fitted
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# One person and one bicycle in an input of 64 x 32 (width x height); a frame of 128 x 32 lies in its rows 8 to 24
PERSON = {"corners": (10, 10, 20, 20), "centre": (15, 15, 10, 10), "score": 0.8}
EXPECTED = [20, 4, 40, 24]
BICYCLE = {"corners": (40, 10, 50, 20), "centre": (45, 15, 10, 10), "score": 0.9}
FRAME = np.zeros((32, 128, 3), np.uint8)


def model_that_gives(path, output: np.ndarray, shape=(1, 3, 32, 64), kind=onnx.TensorProto.FLOAT):
    helper = onnx.helper
    nodes = [  # the input is used, so that it stays
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["output"]),
    ]
    numbers = np.float16 if kind == onnx.TensorProto.FLOAT16 else np.float32
    constants = [
        onnx.numpy_helper.from_array(output.astype(numbers), "answer"),
        onnx.numpy_helper.from_array(np.zeros((), numbers), "zero"),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("output", kind, output.shape)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return f"onnx:{path}"


def rows(classes: int, *, objectness: bool) -> np.ndarray:
    """N rows of (cx, cy, w, h, [objectness,] scores), most of them empty; the person twice."""
    table = np.zeros((100, 4 + objectness + classes), np.float32)
    for place, thing, label in ((3, PERSON, 0), (4, PERSON, 0), (50, BICYCLE, 1)):
        table[place, :4] = thing["centre"]
        table[place, -classes + label] = thing["score"]
        if objectness:
            table[place, 4] = 0.5
    return table


@pytest.mark.parametrize("classes", [2, 80])
def test_layout_of_yolov8(tmp_path, classes):
    found = detector_named(model_that_gives(tmp_path / "a.onnx", rows(classes, objectness=False).T[None]))(FRAME)
    assert found.boxes.tolist() == [EXPECTED]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_layout_of_yolov5(tmp_path):
    found = detector_named(model_that_gives(tmp_path / "a.onnx", rows(80, objectness=True)[None]))(FRAME)
    assert found.boxes.tolist() == [EXPECTED]
    assert found.scores.tolist() == pytest.approx([0.4])


def test_layout_of_yolov5_with_one_class(tmp_path):
    """Six columns, as end to end: the number of rows tells them apart."""
    table = np.zeros((25_200, 6), np.float32)
    table[[3, 20_000]] = *PERSON["centre"], 0.5, PERSON["score"]
    found = detector_named(model_that_gives(tmp_path / "a.onnx", table[None]))(FRAME)
    assert found.boxes.tolist() == [EXPECTED]
    assert found.scores.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_end_to_end_layout(tmp_path, kind):
    table = np.zeros((1000, 6), np.float32)
    table[0] = *BICYCLE["corners"], BICYCLE["score"], 1
    table[1] = *PERSON["corners"], PERSON["score"], 0
    found = detector_named(model_that_gives(tmp_path / "a.onnx", table[None], kind=kind))(FRAME)
    assert found.boxes.tolist() == [EXPECTED]
    assert found.scores.tolist() == pytest.approx([0.8], abs=1e-3)


def test_an_input_of_any_size(tmp_path):
    table = rows(80, objectness=False).T[None]
    name = model_that_gives(tmp_path / "a.onnx", table, shape=("batch", 3, "height", "width"))
    found = detector_named(name)(np.zeros((640, 640, 3), np.uint8))
    assert found.boxes.tolist() == [list(PERSON["corners"])]


def test_a_frame_is_fitted_and_padded():
    frame = np.full((32, 128, 3), 255, np.uint8)
    pixels, scale, corner = _fitted(frame, 32, 64)
    assert (pixels.shape, scale, corner.tolist()) == ((1, 3, 32, 64), 0.5, [0, 8])
    assert pixels[0, :, 8:24].min() == 1
    assert pixels[0, :, :8].max() == pixels[0, :, 24:].max() == pytest.approx(GREY / 255)


def test_models_of_another_kind(tmp_path):
    for shape, output in (((1, 1, 32, 64), np.zeros((1, 84, 9))), ((1, 3, 32, 64), np.zeros((1, 84)))):
        with pytest.raises(UserError, match=r"\(1, 3, H, W\) to \(1, boxes, values\) is read"):
            detector_named(model_that_gives(tmp_path / "a.onnx", output, shape=shape))


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        detector_named(f"onnx:{tmp_path / 'a.onnx'}")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a model that onnxruntime can load"):
        detector_named(f"onnx:{tmp_path / 'a.onnx'}")
