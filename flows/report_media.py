"""What a report plays: results where they are, other media linked or copied into its folder, and made playable where needed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

import cv2
from av import VideoFrame

from schemas.problems import HeadswapError, MediaError
from stages.video.decode import open_clip
from stages.video.encode import SegmentWriter
from stages.video.index import open_container, picture_stream, video_index
from stages.video.pictures import is_picture, read_picture
from stages.video.sandbox import run_limited

COPY_BYTES = 64 * 2**20
"""Larger files that cannot be linked are shown as previews instead of being copied."""

PREVIEW_SIDE = 640
"""Longest side of a preview, pixels."""

THUMBNAIL_SIDE = 720

PREVIEW_FRAMES = 3_000
"""Of the beginning of a longer video, as its preview."""

MEDIUM_SECONDS = 180.0
"""Most that one medium may take."""

TOTAL_SECONDS = 1_800.0
"""Most that the media of one page may take together; a later call goes on."""

_PREVIEW = "shown as a small preview without sound; browsers do not play the file itself."
_BEGINNING = "its first {frames:,} frames are shown as a small preview without sound; browsers do not play the file itself."

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

    Media are untrusted: whatever is not in the folder yet is read, decoded and encoded in another process, which may crash,
    hang or eat memory without harm. One process serves many media, because starting it takes a second.

    Args:
        out: the report's folder. scratch: where previews are made before they are put there; the system's temporary folder
            where None. frames: previews of longer videos show their beginning. seconds: most that one medium may take.
    """

    def __init__(
        self, out: Path, scratch: Path | None = None, *, frames: int = PREVIEW_FRAMES, seconds: float = MEDIUM_SECONDS
    ) -> None:
        self.out = out
        self._scratch = scratch
        self._frames = frames
        self.seconds = seconds
        self._shown: dict[tuple[str, bool], Shown] = {}

    def show(self, address: str, *, in_place: bool = False) -> Shown:
        """Make a medium available to the page.

        Args:
            address: a path, or a URL; only local files can be shown.
            in_place: link to the file, a result of the run, where it is, as long as a browser plays it, instead of taking it
                into the folder.
        """
        if (address, in_place) not in self._shown:
            self.prepare([(address, in_place)])
        return self._shown[address, in_place]

    def prepare(self, wanted: Iterable[tuple[str, bool]]) -> None:
        """Make many media available at once; each as ``show`` takes it: its address and whether it stays in its place."""
        pending: dict[str, list[tuple[str, bool]]] = {}
        for known in dict.fromkeys(wanted):
            if known in self._shown:
                continue
            shown = self._at_hand(*known)
            if shown is None:
                pending.setdefault(known[0], []).append(known)
            else:
                self._shown[known] = shown
        for address, shown in self._made_apart(list(pending)):
            self._shown.update(dict.fromkeys(pending[address], shown))

    def _at_hand(self, address: str, in_place: bool) -> Shown | None:
        """What can be said without decoding anything but the run's own result; None where another process has to look."""
        path = local_path(address)
        if path is None:
            return Shown("", "none", f"{address} is not on this machine, so it cannot be played here.")
        try:
            if not path.is_file():
                return Shown("", "none", f"{address} is not there any more.")
            if in_place and not is_picture(path) and playable(path):
                return Shown(quote(Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()), "video")
            return self._in_folder(path)
        except (HeadswapError, OSError, ValueError) as error:
            return Shown("", "none", f"{address} cannot be shown: {error}")

    def _in_folder(self, path: Path) -> Shown | None:
        """What an earlier call has made of exactly this file."""
        if is_picture(path):
            target = self._name(path, ".jpg")
            return Shown(self._relative(target), "picture") if target.exists() else None
        for suffix, note in (
            (path.suffix.lower(), ""),
            (".preview.mp4", _PREVIEW),
            (".beginning.mp4", _BEGINNING.format(frames=self._frames)),
        ):
            target = self._name(path, suffix)
            if target.exists():
                return Shown(self._relative(target), "video", note)
        return None

    def _made_apart(self, addresses: list[str]) -> Iterator[tuple[str, Shown]]:
        """Make media in another process, and start it again after one that it did not survive."""
        while addresses:
            over, reason = False, "its decoder failed"
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                record = Path(folder) / "made.jsonl"
                try:  # each medium has a limit of its own, see ``_make_all``
                    run_limited(_make_all, self, addresses, record, seconds=TOTAL_SECONDS, subject="the media of the report")
                except MediaError as error:
                    over = error.code == "decoder_timeout"
                    slow = signal.SIGALRM.name in error.message
                    reason = f"it took longer than {self.seconds:g} seconds" if slow else f"{reason} ({error.code})"
                lines = record.read_text(encoding="utf-8").split("\n")[:-1] if record.exists() else []
            for address, line in zip(addresses, lines, strict=False):
                yield address, Shown(*json.loads(line))
            addresses = addresses[len(lines) :]
            if over:
                for address in addresses:
                    yield address, Shown("", "none", f"{address} is not shown yet: `headswap report` goes on with the previews.")
                return
            if addresses:
                yield addresses[0], Shown("", "none", f"{addresses[0]} cannot be shown: {reason}.")
            addresses = addresses[1:]

    def make(self, address: str) -> Shown:
        """Take a medium into the folder, decoding it in this very process; whatever is wrong with it ends in its note."""
        path = local_path(address)
        assert path is not None
        try:
            found = self._in_folder(path)
            if found is not None:
                return found
            if is_picture(path):
                return self._thumbnail(path)
            taken = self._take(path) if playable(path) else None
            return taken or self._preview(path)
        except Exception as error:  # noqa: BLE001 - decoders raise of every kind, and a page must not fail for one medium
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

    def _preview(self, path: Path) -> Shown:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            made = Path(folder) / "preview.mp4"
            whole = write_preview(path, made, self._frames)
            target = self._name(path, ".preview.mp4" if whole else ".beginning.mp4")
            temporary = target.with_name(f".{target.name}.part")
            shutil.move(made, temporary)
            os.replace(temporary, target)
        return Shown(self._relative(target), "video", _PREVIEW if whole else _BEGINNING.format(frames=self._frames))


def _make_all(folder: MediaFolder, addresses: Sequence[str], record: Path) -> None:
    """Make media one after the other, noting each as soon as it is done: what comes of them outlives this process."""
    with record.open("w", encoding="utf-8") as lines:
        for address in addresses:
            signal.setitimer(signal.ITIMER_REAL, folder.seconds)  # the signal ends the process, also inside a decoder
            shown = folder.make(address)
            signal.setitimer(signal.ITIMER_REAL, 0)
            lines.write(json.dumps([shown.address, shown.kind, shown.note]) + "\n")
            lines.flush()


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


def write_preview(path: Path, target: Path, frames: int = PREVIEW_FRAMES) -> bool:
    """A small H.264 file with the same frames at the same times, upright; True unless it ends after that many frames."""
    with open_clip(path) as reader:
        index = video_index(path)
        scale = min(1.0, PREVIEW_SIDE / max(reader.width, reader.height))
        size = (max(2, round(reader.width * scale / 2) * 2), max(2, round(reader.height * scale / 2) * 2))
        writer = SegmentWriter(
            target,
            width=size[0],
            height=size[1],
            pixel_format="yuv420p",
            time_base=index.time_base,
            frame_rate=index.frame_rate,
            crf=27,
            color_range=1,
            color_space=1,
            color_primaries=1,
            color_transfer=1,
        )
        with writer:
            for frame, rgb in itertools.islice(reader.iterate(), frames):
                small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
                picture = VideoFrame.from_ndarray(small, format="rgb24")
                writer.write(
                    picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range=1), int(index.pts[frame])
                )
        return len(reader) <= frames
