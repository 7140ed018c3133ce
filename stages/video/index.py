"""The frames of a video file: their numbers, timestamps and key frames, found without decoding where that is safe.

Frame ``k`` is the k-th frame in order of presentation. Every reader in this package numbers frames by this index, so that
decord and PyAV agree, after a seek as much as from the start.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import Packet
from av.codec.context import CodecContext
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from schemas.problems import MediaError
from stages.video.facts import AudioFacts, Limits, check_file, check_pixels, too_large
from stages.video.pictures import ends_properly
from stages.video.rotation import boxes

DECODE_THREADS = 1
"""One: workers share the cores already, and how a decoder conceals damage must not depend on the timing of threads."""

# In these, every packet is one picture with its own timestamp; elsewhere (transport streams, AVI) the index decodes.
_PACKET_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_MATROSKA = frozenset({"matroska", "webm"})
_PACKET_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4", "prores", "mjpeg", "ffv1", "png"})
_TELLS_REFERENCES = frozenset({"h264"})
"""A picture marked as no reference is none. In HEVC it may still be one for other temporal layers."""

_START_FRAMES = 3
"""Decoded to learn the rotation and whether the first packets give pictures at all (a file may start inside a group)."""

_FEW_FRAMES = 3
"""Headers may state that much more than a whole file holds: they round, or count what the last packet of another stream lasts."""

ANIMATIONS = frozenset({"gif", "apng"})
"""Codecs, and containers, of pictures that move. Each is drawn onto the one before, whatever the decoder says of key frames."""

_ONE_IN = 20
"""At most one picture in so many may be left out for want of a time stamp of its own; where it is more, the video is refused."""


@dataclass(frozen=True)
class VideoIndex:
    """Timing and description of a video's first picture stream.

    ``pts`` and ``duration`` are int64 [frames] in ``time_base``, in order of presentation; ``keys`` int64 [n] are the
    timestamps of key frames, ascending.
    """

    pts: np.ndarray
    duration: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    frame_rate: Fraction
    rotation: int
    coded_width: int
    coded_height: int
    pixel_format: str
    bit_depth: int
    color_range: int
    color_space: int
    color_primaries: int
    color_transfer: int
    sample_aspect_ratio: Fraction
    codec: str
    container: str
    audio: tuple[AudioFacts, ...]
    ignored_streams: tuple[str, ...]
    truncated: bool
    plain: bool
    """One picture for every packet: no discarded, damaged or undated packet, and a key frame first."""
    closed_groups: bool
    """No frame before a key frame needs what comes after it in the file, which decord gets wrong after a seek."""
    notes: tuple[str, ...]

    @property
    def frames(self) -> int:
        return len(self.pts)

    @property
    def width(self) -> int:
        return self.coded_height if self.rotation in (90, 270) else self.coded_width

    @property
    def height(self) -> int:
        return self.coded_width if self.rotation in (90, 270) else self.coded_height

    @property
    def seconds(self) -> float:
        return float((int(self.pts[-1]) + int(self.duration[-1]) - int(self.pts[0])) * self.time_base)

    @property
    def variable_frame_rate(self) -> bool:
        """Steps between frames differ by more than the time base's rounding."""
        steps = np.diff(self.pts)
        return bool(len(steps)) and int(steps.max() - steps.min()) > 1


def open_container(path: Path) -> InputContainer:
    """Open a media file with PyAV; FFmpeg's errors become ``MediaError`` with a remedy."""
    try:
        # FFmpeg would read a name such as "concat:..." as a protocol; a path never means one.
        return av.open(f"file:{path}", mode="r", metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        if _lacks_its_index(path):
            raise MediaError(
                "truncated",
                f"{path} is cut off: its index, which such a file has at its end, is missing.",
                "Copy or download the file again.",
            ) from error
        raise MediaError(
            "not_media",
            f"{path} cannot be opened as a video or picture ({getattr(error, 'strerror', None) or error}).",
            "Check that the file is what its name says and that it was copied completely.",
        ) from error


def _lacks_its_index(path: Path) -> bool:
    """Whether a file begins as MP4 or QuickTime, but the box that says where its frames are never comes."""
    with open(path, "rb") as file:
        try:
            kinds = [kind for kind, _, _ in boxes(file, 0, path.stat().st_size)]
        except struct.error:
            return False  # the boxes end in the middle of a header: no such file
    return kinds[:1] == [b"ftyp"] and b"moov" not in kinds


def _lost_of_its_index(path: Path) -> bool:
    """Whether an MP4 or QuickTime file ends inside a box that says where frames are: FFmpeg then knows of the others alone."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            return any(kind in (b"moov", b"moof") and stop > size for kind, _, stop in boxes(file, 0, size))
        except struct.error:
            return False  # something else is behind the last box


def _ends_inside_riff(path: Path) -> bool:
    """Whether an AVI file is shorter than it says itself; large ones say it piece by piece."""
    size = path.stat().st_size
    start = 0
    with open(path, "rb") as file:
        while start + 8 <= size:
            file.seek(start)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind != b"RIFF":
                break
            if start + 8 + length > size:
                return True
            start += 8 + length + length % 2
    return False


def picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first picture stream that is not a cover image, ready to decode with a fixed number of threads."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError("no_frames", f"{path} has no video stream.", "Give a video or a picture; sound alone cannot be used.")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError("unsupported", f"The video stream of {path} has an unknown codec.", "Convert it to H.264 in MP4.")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = DECODE_THREADS
    return stream


def decode_packets(
    container: InputContainer, stream: VideoStream, dispensable: Callable[[int], bool] | None = None
) -> Iterator[VideoFrame]:
    """Every picture that comes out of the stream from the current position, damaged packets skipped.

    Args:
        dispensable: whether the picture with this timestamp is not needed. Of those, pictures to which no other refers are not
            decoded at all, where the codec says so reliably.

    A file that ends in the middle of a packet ends the iteration; it is not an error here, since the index already says
    which frames there are.
    """
    packets = container.demux(stream)
    selective = dispensable is not None and stream.codec_context.name in _TELLS_REFERENCES
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            break
        if selective and dispensable is not None:
            spare = packet.pts is not None and dispensable(packet.pts)
            stream.codec_context.skip_frame = "NONREF" if spare else "DEFAULT"
        try:
            yield from stream.codec_context.decode(packet)  # the flush packet at the end of a file drains the decoder
        except av.error.FFmpegError:
            continue
    try:
        yield from stream.codec_context.decode(None)
    except av.error.FFmpegError:  # EOFError of a decoder that was drained already
        return


def video_index(path: Path, limits: Limits | None = None) -> VideoIndex:
    """Index of a video file, kept in memory until the file changes.

    Raises:
        MediaError: file_missing, file_empty, not_media, no_frames, bad_timestamps, unsupported, too_large.
    """
    limits = limits or Limits()
    check_file(path, limits)
    status = path.stat()
    index = _indexed(path, status.st_size, status.st_mtime_ns, limits)
    if index.frames > limits.frames:
        raise too_large(path, f"has {index.frames:,} frames; the limit is {limits.frames:,}", "limits.max_frames")
    if index.seconds > limits.seconds:
        raise too_large(path, f"is {index.seconds:,.0f} seconds long; the limit is {limits.seconds:,.0f}", "limits.max_seconds")
    return index


@functools.lru_cache(maxsize=16)
def _indexed(path: Path, size: int, modified: int, limits: Limits) -> VideoIndex:
    del size, modified  # part of the cache's key only
    with open_container(path) as container:
        stream = picture_stream(container, path)
        context = stream.codec_context
        check_pixels(path, context.width, context.height, limits)
        scan = _scan(path, container, stream)
    start = _first_frames(path)
    if not start:
        raise MediaError("no_frames", f"No picture in {path} can be decoded.", "Check the file, or convert it to H.264 in MP4.")
    notes: list[str] = []
    plain = scan.plain and [frame.pts for frame in start] == sorted(scan.pts)[: len(start)]
    if plain:
        pts, duration, keys = scan.pts, scan.durations, scan.keys
    else:
        decoded = _decoded_timestamps(path, scan.corrupt)
        pts, duration, keys = decoded.pts, decoded.durations, decoded.keys
        if scan.codec in ANIMATIONS:
            keys = keys[:1]
        notes += _without_times(path, decoded)
        missing = len(scan.pts) + scan.undated - len(pts) - decoded.repeated - decoded.undated
        if missing > 0 and not scan.truncated:
            notes.append(f"{missing} packets of the video give no picture and are left out.")
    if scan.truncated:
        notes.append(f"The file is cut off: its first {len(pts)} frames are used.")
    if not len(pts):
        raise MediaError("no_frames", f"No picture in {path} can be decoded.", "Check the file, or convert it to H.264 in MP4.")
    order = np.argsort(np.asarray(pts, np.int64), kind="stable")
    sorted_pts = np.asarray(pts, np.int64)[order]
    first = start[0]
    return VideoIndex(
        pts=sorted_pts,
        duration=_durations(sorted_pts, np.asarray(duration, np.int64)[order], scan.time_base, scan.frame_rate),
        keys=np.unique(np.asarray(keys, np.int64)),
        time_base=scan.time_base,
        frame_rate=scan.frame_rate,
        rotation=-first.rotation % 360 if first.rotation % 90 == 0 else 0,
        coded_width=first.width,
        coded_height=first.height,
        pixel_format=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        color_range=int(first.color_range),
        color_space=int(first.colorspace),
        color_primaries=int(first.color_primaries),
        color_transfer=int(first.color_trc),
        sample_aspect_ratio=scan.sample_aspect_ratio,
        codec=scan.codec,
        container=scan.container,
        audio=scan.audio,
        ignored_streams=scan.ignored_streams,
        truncated=scan.truncated,
        plain=plain,
        closed_groups=not scan.leading,
        notes=tuple(notes),
    )


@dataclass
class _Scan:
    pts: list[int]
    durations: list[int]
    keys: list[int]
    corrupt: set[int]
    undated: int
    plain: bool
    leading: bool
    truncated: bool
    time_base: Fraction
    frame_rate: Fraction
    sample_aspect_ratio: Fraction
    codec: str
    container: str
    audio: tuple[AudioFacts, ...]
    ignored_streams: tuple[str, ...]


def _scan(path: Path, container: InputContainer, stream: VideoStream) -> _Scan:
    """Read every packet's header once: no decoding."""
    time_base = stream.time_base
    assert time_base is not None  # a stream that was opened has one
    names = set(container.format.name.split(","))
    streams = [stream, *container.streams.audio]
    if names & _MATROSKA:  # its duration is that of whatever lasts longest: subtitles, or other pictures, but no cover
        streams = [other for other in container.streams if not other.disposition & av.stream.Disposition.attached_pic]
    pts: list[int] = []
    durations: list[int] = []
    keys: list[int] = []
    corrupt: set[int] = set()
    audio_packets: Counter[int] = Counter()
    undated = discarded = video_packets = 0
    end = pictures_end = untold = 0.0
    latest: dict[int, float] = {}
    broken = leading = False
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.error.FFmpegError:
            broken = True
            break
        if packet.size == 0:
            continue
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is not None and packet.time_base:
            starts, ends = (float(time * packet.time_base) for time in (shown, shown + (packet.duration or 0)))
            end = max(end, ends)
            if packet.stream.index == stream.index:
                pictures_end = max(pictures_end, ends)
            if not packet.duration and packet.stream.type != "subtitle":
                # The header may count for the last one what any of them lasted.
                untold = max(untold, starts - latest.get(packet.stream.index, starts))
            latest[packet.stream.index] = max(starts, latest.get(packet.stream.index, starts))
        if packet.stream.index != stream.index:
            audio_packets[packet.stream.index] += 1
            continue
        video_packets += 1
        if packet.is_discard:
            discarded += 1
        elif packet.pts is None:
            undated += 1
        elif packet.is_corrupt:
            corrupt.add(packet.pts)
        else:
            leading = leading or (bool(keys) and not packet.is_keyframe and packet.pts < keys[-1])
            pts.append(packet.pts)
            durations.append(packet.duration or 0)
            if packet.is_keyframe:
                leading = leading or (bool(keys) and not _starts_afresh(packet, stream.codec_context))
                keys.append(packet.pts)
    codec = stream.codec_context.name
    frame_rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    stated = _stated_end(container, stream)
    allowed = max(_FEW_FRAMES / float(frame_rate), untold)
    lost = (end if names & _MATROSKA else pictures_end) < stated - allowed
    if "avi" in names:  # chunks that repeat the last picture are in the file, but give no packets
        lost = lost and _ends_inside_riff(path)
    elif "mov" in names:
        lost = video_packets < _samples(stream) or _lost_of_its_index(path)
    elif names & ANIMATIONS:
        lost = not ends_properly(path)
    truncated = broken or bool(corrupt) or lost
    plain = (
        bool(names & _PACKET_CONTAINERS)
        and codec in _PACKET_CODECS
        and not (truncated or undated or discarded)
        and len(set(pts)) == len(pts)
        and bool(keys)
    )
    return _Scan(
        pts=pts,
        durations=durations,
        keys=keys,
        corrupt=corrupt,
        undated=undated,
        plain=plain,
        leading=leading,
        truncated=truncated,
        time_base=time_base,
        frame_rate=frame_rate,
        sample_aspect_ratio=Fraction(stream.sample_aspect_ratio or 1),
        codec={"libdav1d": "av1"}.get(codec, codec),
        container=container.format.name,
        audio=tuple(
            AudioFacts(
                s.index, s.codec_context.name, s.codec_context.sample_rate, s.codec_context.channels, audio_packets[s.index]
            )
            for s in container.streams.audio
            if s.codec_context is not None
        ),
        ignored_streams=tuple(
            sorted(s.type or "unknown" for s in container.streams if s.index != stream.index and s.type != "audio")
        ),
    )


def _samples(stream: VideoStream) -> int:
    """Samples that the index of an MP4 has for what its edit list shows, each as often as FFmpeg gives it; but empty ones."""
    return sum(entry.size > 0 for entry in stream.index_entries)


def _stated_end(container: InputContainer, stream: VideoStream) -> float:
    """When the pictures end by the file's header, in Matroska all there is, in seconds; zero where a header does not say it.

    Elsewhere FFmpeg makes a duration of the last time stamp it finds or of bit rates, which a file that is cut off changes too;
    MP4 has an index instead.
    """
    names = set(container.format.name.split(","))
    if names & _MATROSKA:  # neither says how many frames there are, and the duration is that of the longest stream
        return container.duration / av.time_base if container.duration else 0.0
    base = float(stream.time_base or 0)
    if "avi" in names:  # also counts pictures that only repeat the one before, which give no packet
        return stream.frames * base
    if "mxf" in names:
        return ((stream.start_time or 0) + (stream.duration or 0)) * base
    return 0.0


def _starts_afresh(packet: Packet, context: CodecContext) -> bool:
    """Whether nothing after this key frame refers to anything before it: an IDR picture in H.264 and HEVC.

    Expects the units of MP4 and Matroska, a length before each; answers no for anything else.
    """
    if context.name not in ("h264", "hevc"):
        return True
    extradata = context.extradata or b""
    if len(extradata) < 23 or extradata[0] != 1:
        return False
    high_efficiency = context.name == "hevc"
    size = (extradata[21] if high_efficiency else extradata[4]) % 4 + 1
    data = memoryview(packet)
    position = 0
    while position + size < len(data):
        length = int.from_bytes(data[position : position + size], "big")
        header = data[position + size]
        kind = (header >> 1) & 0x3F if high_efficiency else header & 0x1F
        if kind in ((19, 20) if high_efficiency else (5,)):
            return True
        position += size + length
    return False


def _first_frames(path: Path) -> list[VideoFrame]:
    with open_container(path) as container:
        stream = picture_stream(container, path)
        frames = []
        for frame in decode_packets(container, stream):
            frames.append(frame)
            if len(frames) == _START_FRAMES:
                break
        return frames


@dataclass
class _Decoded:
    pts: list[int]
    durations: list[int]
    keys: list[int]
    repeated: int
    """Whole pictures whose timestamp an earlier one has already."""
    undated: int
    """Whole pictures without a timestamp."""


def _decoded_timestamps(path: Path, corrupt: set[int]) -> _Decoded:
    """Timestamps, durations and key frames by decoding everything: for files whose packets do not tell.

    Of pictures with the same timestamp only the first counts, as in ``native_frames``.
    """
    found = _Decoded([], [], [], 0, 0)
    seen: set[int] = set()
    with open_container(path) as container:
        stream = picture_stream(container, path)
        for frame in decode_packets(container, stream):
            if frame.is_corrupt or frame.pts in corrupt:
                continue
            if frame.pts is None:
                found.undated += 1
            elif frame.pts in seen:
                found.repeated += 1
            else:
                seen.add(frame.pts)
                found.pts.append(frame.pts)
                found.durations.append(frame.duration or 0)
                if frame.key_frame:
                    found.keys.append(frame.pts)
    return found


def _without_times(path: Path, decoded: _Decoded) -> list[str]:
    """Notes on the few pictures left out because their timestamp repeats or is missing; an error where they are many."""
    repeated, undated = decoded.repeated, decoded.undated
    pictures = len(decoded.pts) + repeated + undated
    if (repeated + undated) * _ONE_IN > pictures:
        reasons = []
        if repeated:
            reasons.append(f"{repeated} of its {pictures} pictures repeat the time stamp of another")
        if undated:
            reasons.append(f"{undated} of its {pictures} pictures have no time stamp")
        raise MediaError(
            "bad_timestamps",
            f"{path} does not say when its pictures are shown: {', '.join(reasons)}.",
            "Write new time stamps, with the video's true frame rate in the place of 25: ffmpeg -r 25 -i IN -c:a copy OUT.mp4",
        )
    notes = []
    if repeated:
        notes.append(f"Pictures left out because their time stamps repeat those of others: {repeated}.")
    if undated:
        notes.append(f"Pictures left out because they have no time stamps: {undated}.")
    return notes


def _durations(pts: np.ndarray, stated: np.ndarray, time_base: Fraction, frame_rate: Fraction) -> np.ndarray:
    """int64 [frames]: the step to the next frame; the last frame keeps its stated duration, or repeats the one before."""
    last = int(stated[-1])
    if last <= 0:
        last = int(pts[-1] - pts[-2]) if len(pts) > 1 else max(1, round(1 / (frame_rate * time_base)))
    return np.append(np.diff(pts), last).astype(np.int64)
