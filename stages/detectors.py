"""MediaPipe's networks as functions of one picture: no state from frame to frame, so that a result depends on nothing else.

MediaPipe's own ``FaceMesh`` follows a face by itself. ``FaceMesh`` here runs the same network (with irises) on a window that
the caller names, and returns the network's presence score, which the packaged solution hides behind a fixed threshold: the
tracking is then ours (``stages.landmarks``).
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

os.environ.setdefault("GLOG_minloglevel", "2")

import cv2
import mediapipe
import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from mediapipe.calculators.core import split_vector_calculator_pb2  # noqa: F401  registers the options named in the graph
from mediapipe.calculators.tensor import (  # noqa: F401
    image_to_tensor_calculator_pb2,
    inference_calculator_pb2,
    tensors_to_floats_calculator_pb2,
)
from mediapipe.framework import calculator_pb2
from mediapipe.framework.formats import rect_pb2
from mediapipe.python import packet_creator, packet_getter
from mediapipe.python._framework_bindings import calculator_graph, resource_util
from numpy.typing import NDArray

from stages.face3d.topology import LANDMARKS
from stages.video.view import FrameView, as_view

DETECTOR_SIDE = 384
"""Frames are averaged down to about this side before the detector samples its 192: bilinear sampling alone would skip pixels."""

MESH_SIDE = 300
"""The same for the mesh's window: on a face of 450 pixels the landmarks tremble by a fifth less."""

_GRAPH = """
input_stream: "image"
input_stream: "window"
output_stream: "landmarks"
output_stream: "presence"
node {
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image"
  input_stream: "NORM_RECT:window"
  output_stream: "TENSORS:input"
  options: { [mediapipe.ImageToTensorCalculatorOptions.ext] {
    output_tensor_width: 192 output_tensor_height: 192 output_tensor_float_range { min: 0.0 max: 1.0 } } }
}
node { calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:operations" }
node {
  calculator: "InferenceCalculator"
  input_stream: "TENSORS:input"
  input_side_packet: "OP_RESOLVER:operations"
  output_stream: "TENSORS:output"
  options: { [mediapipe.InferenceCalculatorOptions.ext] {
    model_path: "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"
    delegate { xnnpack { num_threads: 1 } } } }
}
node {
  calculator: "SplitTensorVectorCalculator"
  input_stream: "output"
  output_stream: "mesh"
  output_stream: "flag"
  options: { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges: { begin: 0 end: 6 } ranges: { begin: 6 end: 7 } } }
}
node {
  calculator: "TensorsToFloatsCalculator"
  input_stream: "TENSORS:flag"
  output_stream: "FLOAT:presence"
  options: { [mediapipe.TensorsToFloatsCalculatorOptions.ext] { activation: SIGMOID } }
}
node {
  calculator: "TensorsToFaceLandmarksWithAttention"
  input_stream: "TENSORS:mesh"
  output_stream: "LANDMARKS:relative"
}
node {
  calculator: "LandmarkProjectionCalculator"
  input_stream: "NORM_LANDMARKS:relative"
  input_stream: "NORM_RECT:window"
  output_stream: "NORM_LANDMARKS:landmarks"
}
"""


@dataclass(frozen=True)
class Window:
    """A turned square of a picture, in its pixels; ``turn`` in radians, clockwise in the picture."""

    x: float
    y: float
    side: float
    turn: float = 0.0

    @classmethod
    def around(cls, landmarks: NDArray[np.floating], margin: float = 1.5) -> Window:
        """Where the mesh looks for a face that had these landmarks ``[478, 2 or 3]``: upright in the window, with a margin."""
        points = np.asarray(landmarks, np.float64)[:, :2]
        across = points[263] - points[33]
        turn = math.atan2(across[1], across[0])
        cosine, sine = math.cos(turn), math.sin(turn)
        upright = points @ np.array([[cosine, -sine], [sine, cosine]])
        low, high = upright.min(0), upright.max(0)
        centre = np.array([[cosine, -sine], [sine, cosine]]) @ ((low + high) / 2)
        return cls(float(centre[0]), float(centre[1]), float(margin * (high - low).max()), turn)


@dataclass(frozen=True)
class Detection:
    """A face found in a frame, in its pixels: box ``[4]`` x0, y0, x1, y1, eyes ``[2, 2]`` (person's right, left), score 0..1."""

    box: NDArray[np.float64]
    eyes: NDArray[np.float64]
    score: float

    @property
    def window(self) -> Window:
        centre = (self.box[:2] + self.box[2:]) / 2
        across = self.eyes[1] - self.eyes[0]
        side = 1.5 * float((self.box[2:] - self.box[:2]).max())
        return Window(float(centre[0]), float(centre[1]), side, math.atan2(across[1], across[0]))


class _Closing(ABC):
    """A context manager around ``close``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the network."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class FaceDetector(_Closing):
    """Full-range face detection (faces of about a twentieth of the picture's side and more)."""

    def __init__(self, minimum_score: float = 0.5) -> None:
        self._solution = mediapipe.solutions.face_detection.FaceDetection(
            model_selection=1, min_detection_confidence=minimum_score
        )

    def detect(self, rgb: NDArray[np.uint8], *, thorough: bool = False) -> list[Detection]:
        """Faces in a frame uint8 ``[height, width, 3]``, best first.

        Args:
            thorough: look again in overlapping squares of the frame's short side, and of half of it: finds a head of 30 pixels
                in a 720p frame, for about twenty times the work.
        """
        height, width = rgb.shape[:2]
        found = self._in_part(rgb, 0, 0)
        if thorough:
            short = min(height, width)
            sides = [short] if short < max(height, width) else []
            sides += [short // 2] if short >= 2 * 96 else []
            for side in sides:
                for top in _starts(height, side):
                    for left in _starts(width, side):
                        found += self._in_part(rgb[top : top + side, left : left + side], left, top)
        return _distinct(found)

    def _in_part(self, part: NDArray[np.uint8], left: int, top: int) -> list[Detection]:
        part, factor = _averaged_down(part, max(part.shape[:2]) / DETECTOR_SIDE)
        answer = self._solution.process(part).detections or []
        width, height = part.shape[1] * factor, part.shape[0] * factor
        found = []
        for item in answer:
            box = item.location_data.relative_bounding_box
            corner = np.array([box.xmin, box.ymin])
            corners = np.stack([corner, corner + np.array([box.width, box.height])]) * (width, height) + (left, top)
            points = np.array([(point.x, point.y) for point in item.location_data.relative_keypoints[:2]])
            found.append(Detection(corners.ravel(), points * (width, height) + (left, top), float(item.score[0])))
        return found

    def close(self) -> None:
        self._solution.close()

    def __enter__(self) -> FaceDetector:
        return self


class FaceMesh(_Closing):
    """The 478 landmarks of the face in a window of a picture."""

    def __init__(self) -> None:
        with _resources:
            resource_util.set_resource_dir(str(Path(mediapipe.__file__).parent.parent))
            self._graph = calculator_graph.CalculatorGraph(
                graph_config=text_format.Parse(_GRAPH, calculator_pb2.CalculatorGraphConfig())
            )
        self._answer: dict[str, object] = {}
        for name in ("landmarks", "presence"):
            self._graph.observe_output_stream(name, self._answer.__setitem__, True)
        self._graph.start_run()
        self._time = 0

    def landmarks(self, picture: NDArray[np.uint8] | FrameView, window: Window) -> tuple[NDArray[np.float64], float]:
        """Landmarks ``[478, 3]`` in the picture's pixels (z too, negative towards the viewer) and the presence of a face, 0..1.

        The network answers with a mesh wherever it is told to look: the presence says whether to believe it.
        """
        view = as_view(picture)
        height, width = view.height, view.width
        reach = window.side * (abs(math.cos(window.turn)) + abs(math.sin(window.turn))) / 2 + 2
        left, right = max(int(window.x - reach), 0), min(math.ceil(window.x + reach), width)
        top, bottom = max(int(window.y - reach), 0), min(math.ceil(window.y + reach), height)
        if right - left < 2 or bottom - top < 2:
            return np.full((LANDMARKS, 3), np.nan), 0.0
        part, factor = _averaged_down(view.part(left, top, right, bottom), window.side / MESH_SIDE)
        seen = np.array([part.shape[1], part.shape[0]])
        where = rect_pb2.NormalizedRect(
            x_center=(window.x - left) / factor / seen[0],
            y_center=(window.y - top) / factor / seen[1],
            width=window.side / factor / seen[0],
            height=window.side / factor / seen[1],
            rotation=window.turn,
        )
        self._answer.clear()
        self._time += 1
        image = packet_creator.create_image_frame(data=part, image_format=mediapipe.ImageFormat.SRGB)
        self._graph.add_packet_to_input_stream("image", image.at(self._time))
        self._graph.add_packet_to_input_stream("window", packet_creator.create_proto(where).at(self._time))
        self._graph.wait_until_idle()
        answer = packet_getter.get_proto(self._answer["landmarks"])
        relative = np.array([(point.x, point.y, point.z) for point in answer.landmark])
        pixels = relative * factor * (seen[0], seen[1], seen[0]) + (left, top, 0.0)
        return pixels, float(packet_getter.get_float(self._answer["presence"]))

    def close(self) -> None:
        self._graph.close_all_packet_sources()
        self._graph.wait_until_done()

    def __enter__(self) -> FaceMesh:
        return self


class BodyPose(_Closing):
    """Shoulders by MediaPipe Pose."""

    def __init__(self) -> None:
        self._solution = mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1, min_detection_confidence=0.3)

    def shoulders(self, picture: NDArray[np.uint8] | FrameView, face: NDArray[np.floating]) -> NDArray[np.float64]:
        """Person's left x, y, visibility and right x, y, visibility, ``[6]``, frame pixels; NaN with visibility 0 when unknown.

        Args:
            face: box of the person's face, x0, y0, x1, y1: the search is limited to what may be this person's upper body, and an
                answer whose shoulders are not below and around the face is somebody else's.
        """
        unknown = np.array([np.nan, np.nan, 0.0] * 2)
        view = as_view(picture)
        height, width = view.height, view.width
        centre_x, side = float(face[0] + face[2]) / 2, float((face[2:] - face[:2]).max())
        left, right = max(int(centre_x - 3 * side), 0), min(math.ceil(centre_x + 3 * side), width)
        top, bottom = max(int(face[1] - side), 0), min(math.ceil(face[1] + 5 * side), height)
        if right - left < 16 or bottom - top < 16:
            return unknown
        part, factor = _averaged_down(view.part(left, top, right, bottom), max(right - left, bottom - top) / 384)
        answer = self._solution.process(part).pose_landmarks
        if answer is None:
            return unknown
        across, down = part.shape[1] * factor, part.shape[0] * factor
        points = np.array([(p.x * across + left, p.y * down + top, p.visibility) for p in answer.landmark])
        nose, shoulders = points[0], points[[11, 12]]
        astray = np.abs(nose[:2] - ((face[0] + face[2]) / 2, (face[1] + face[3]) / 2)).max() > side
        if astray or shoulders[:, 1].mean() < (face[1] + face[3]) / 2:
            return unknown
        return shoulders.ravel()

    def close(self) -> None:
        self._solution.close()

    def __enter__(self) -> BodyPose:
        return self


def overlap(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    shared, areas = _shared(one, other)
    both = sum(areas) - shared
    return shared / both if both > 0 else 0.0


def covered(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Share of the smaller of two boxes that lies in the other."""
    shared, areas = _shared(one, other)
    return shared / min(areas) if min(areas) > 0 else 0.0


def _shared(one: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, tuple[float, float]]:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    areas = float(np.prod(one[2:] - one[:2])), float(np.prod(other[2:] - other[:2]))
    return float(np.prod(np.maximum(high - low, 0.0))), areas


_resources = threading.Lock()


def _distinct(found: list[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for item in sorted(found, key=lambda item: (-item.score, *item.box)):
        if all(overlap(item.box, other.box) < 0.3 for other in kept):
            kept.append(item)
    return kept


def _starts(length: int, side: int) -> list[int]:
    """Where squares start that cover a length with an overlap of at least a quarter of their side."""
    if side >= length:
        return [0]
    steps = math.ceil((length - side) / (0.75 * side))
    return [round(k * (length - side) / steps) for k in range(steps + 1)]


def _averaged_down(picture: NDArray[np.uint8], shrink: float) -> tuple[NDArray[np.uint8], int]:
    """A picture reduced by the whole number up to ``shrink`` that averages squares of pixels, and that number.

    Up to a square less one pixel is cut off on the right and at the bottom.
    """
    factor = max(int(min(shrink, *picture.shape[:2])), 1)
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    if factor == 1:
        return np.ascontiguousarray(picture), 1
    whole = picture[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8), factor
