"""What a report plays: results where they are, other media linked or copied into its folder, and made playable where needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

import cv2
from av import VideoFrame

from schemas.problems import HeadswapError
from stages.video.decode import open_clip, probe
from stages.video.encode import SegmentWriter
from stages.video.facts import StreamFacts
from stages.video.index import open_container, picture_stream, video_index
from stages.video.pictures import is_picture, read_picture

COPY_BYTES = 64 * 2**20
"""Larger files that cannot be linked are shown as previews instead of being copied."""

PREVIEW_SIDE = 640
"""Longest side of a preview, pixels."""

THUMBNAIL_SIDE = 720

_PLAYABLE = {
    (".mp4", "h264"),
    (".m4v", "h264"),
    (".mov", "h264"),
    (".mp4", "av1"),
    (".mp4", "vp9"),
    (".webm", "vp9"),
    (".webm", "vp8"),
    (".webm", "av1"),
}


@dataclass(frozen=True)
class Shown:
    """A medium as a page shows it. ``address`` is relative to the page, empty where nothing can be shown; ``note`` says why."""

    address: str
    kind: Literal["video", "picture", "none"]
    note: str = ""


class MediaFolder:
    """The folder ``media/`` of a report.

    Args:
        out: the report's folder. scratch: where previews are made before they are put there; the system's temporary folder
            where None.
    """

    def __init__(self, out: Path, scratch: Path | None = None) -> None:
        self.out = out
        self._scratch = scratch
        self._shown: dict[tuple[str, bool], Shown] = {}

    def show(self, address: str, *, in_place: bool = False) -> Shown:
        """Make a medium available to the page.

        Args:
            address: a path, or a URL; only local files can be shown.
            in_place: link to the file where it is, as long as a browser plays it, instead of taking it into the folder.
        """
        known = (address, in_place)
        if known not in self._shown:
            self._shown[known] = self._show(address, in_place)
        return self._shown[known]

    def _show(self, address: str, in_place: bool) -> Shown:
        path = local_path(address)
        if path is None:
            return Shown("", "none", f"{address} is not on this machine, so it cannot be played here.")
        if not path.is_file():
            return Shown("", "none", f"{address} is not there any more.")
        try:
            if is_picture(path):
                return self._thumbnail(path)
            if playable(path):
                if in_place:
                    return Shown(quote(Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()), "video")
                taken = self._take(path)
                if taken is not None:
                    return taken
            return self._preview(path, probe(path))
        except (HeadswapError, OSError, ValueError) as error:
            return Shown("", "none", f"{address} cannot be shown: {error}")

    def _name(self, path: Path, suffix: str) -> Path:
        """A name that another file, or this one after a change, does not have."""
        found = path.stat()
        identity = f"{path.resolve()}\n{found.st_size}\n{found.st_mtime_ns}"
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in path.stem)[:60]
        folder = self.out / "media"
        folder.mkdir(exist_ok=True)
        return folder / f"{stem}-{hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()}{suffix}"

    def _relative(self, path: Path) -> str:
        return quote(path.relative_to(self.out).as_posix())

    def _take(self, path: Path) -> Shown | None:
        """A link to the file's content, or a copy of a file that is not too large."""
        target = self._name(path, path.suffix.lower())
        if not target.exists():
            try:
                os.link(path.resolve(), target)
            except OSError:  # another file system, or one without links
                if path.stat().st_size > COPY_BYTES:
                    return None
                temporary = target.with_name(f".{target.name}.part")
                shutil.copyfile(path, temporary)
                os.replace(temporary, target)
        return Shown(self._relative(target), "video")

    def _thumbnail(self, path: Path) -> Shown:
        target = self._name(path, ".jpg")
        if not target.exists():
            rgb, _ = read_picture(path)
            scale = min(1.0, THUMBNAIL_SIDE / max(rgb.shape[:2]))
            size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
            small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
            temporary = target.with_name(f".{target.name}.part")
            temporary.write_bytes(data.tobytes())
            os.replace(temporary, target)
        return Shown(self._relative(target), "picture")

    def _preview(self, path: Path, facts: StreamFacts) -> Shown:
        target = self._name(path, ".preview.mp4")
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                made = Path(folder) / "preview.mp4"
                write_preview(path, made, facts)
                temporary = target.with_name(f".{target.name}.part")
                shutil.move(made, temporary)
                os.replace(temporary, target)
        return Shown(
            self._relative(target), "video", "shown as a small preview without sound; browsers do not play the file itself."
        )


def local_path(address: str) -> Path | None:
    """The local file an address means, or None where it is on another machine."""
    if address.startswith("file://"):
        return Path(unquote(urlsplit(address).path))
    return None if "://" in address else Path(address)


def playable(path: Path) -> bool:
    """Whether browsers play the file as it is: container, codec, 8 bits, 4:2:0.

    Only the header is read: a page of a thousand results is not worth indexing them all.
    """
    with open_container(path) as container:
        context = picture_stream(container, path).codec_context
        name = {"libdav1d": "av1"}.get(context.name, context.name).removeprefix("lib")
        known = (path.suffix.lower(), name) in _PLAYABLE
        return known and context.pix_fmt in ("yuv420p", "yuvj420p")


def write_preview(path: Path, target: Path, facts: StreamFacts) -> None:
    """A small H.264 file with the same frames at the same times, upright."""
    index = video_index(path)
    scale = min(1.0, PREVIEW_SIDE / max(facts.width, facts.height))
    size = (max(2, round(facts.width * scale / 2) * 2), max(2, round(facts.height * scale / 2) * 2))
    writer = SegmentWriter(
        target,
        width=size[0],
        height=size[1],
        pixel_format="yuv420p",
        time_base=Fraction(facts.time_base),
        frame_rate=facts.frame_rate,
        crf=27,
        color_range=1,
        color_space=1,
        color_primaries=1,
        color_transfer=1,
    )
    with writer, open_clip(path) as reader:
        for frame, rgb in reader.iterate():
            small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            picture = VideoFrame.from_ndarray(small, format="rgb24")
            writer.write(picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range=1), int(index.pts[frame]))
