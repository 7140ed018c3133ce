"""Lossless pictures: arrays to PNG and back, in RGB order."""

from __future__ import annotations

import cv2
import numpy as np

# Measured on a 512x512 photograph and on a label map: run-length strategy with the "up" filter takes half the time of
# OpenCV's choice of filter per line (5.5 against 11 ms, 0.5 against 1.5 ms) and the files are smaller or equal.
_FAST = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def encode_png(array: np.ndarray, level: int = 1) -> bytes:
    """PNG of a picture.

    Args:
        array: uint8 [height, width] gray or labels, [height, width, 3] RGB or [height, width, 4] RGBA.
        level: zlib level, 0..9.

    Raises:
        ValueError: for another dtype or shape.
    """
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or array.size == 0:
        raise ValueError(f"a picture is uint8 [h, w], [h, w, 3] or [h, w, 4], not {array.dtype} {list(array.shape)}")
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR if array.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(".png", np.ascontiguousarray(array), [cv2.IMWRITE_PNG_COMPRESSION, level, *_FAST])
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {list(array.shape)}")
    return data.tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """The array that was encoded: uint8 [h, w], [h, w, 3] RGB or [h, w, 4] RGBA.

    Raises:
        ValueError: where ``data`` is not a whole PNG.
    """
    # libpng reports a cut-off file only as a warning and leaves the rest of the picture black; the end chunk tells.
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[-8:-4] != b"IEND":
        raise ValueError("not a whole PNG file")
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("a PNG file that cannot be decoded")
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return array
