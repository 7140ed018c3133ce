"""Import decord without letting its libraries leak into the rest of the process.

decord 0.6.0 loads its bundled codecs with ``RTLD_GLOBAL``. PyAV's own libraries, loaded later, then bind to decord's old
libvpx and libx264 where the names match: encoders fail to open or write other bits. Loaded locally, both live side by side.
Import decord from here and nowhere else.
"""

from __future__ import annotations

import ctypes
import sys

if "decord" not in sys.modules:
    _global = ctypes.RTLD_GLOBAL
    ctypes.RTLD_GLOBAL = ctypes.RTLD_LOCAL  # type: ignore[misc]
    try:
        import decord
    finally:
        ctypes.RTLD_GLOBAL = _global  # type: ignore[misc]
else:
    import decord

DECORDError = decord.DECORDError
VideoReader = decord.VideoReader
cpu = decord.cpu

decord.logging.set_level(decord.logging.QUIET)

__all__ = ["DECORDError", "VideoReader", "cpu"]
