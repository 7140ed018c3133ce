"""Join encoded segments and a target's own sound into one file, packet by packet: nothing is encoded again.

Video packets get the target's timestamps back, exactly; audio packets are copied with their bytes and times.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from schemas.problems import MediaError
from stages.video.index import open_container, video_index
from stages.video.pictures import is_picture

_TECHNICAL_TAGS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "comment", "duration"}
)
_KEEPS_OFFSET = frozenset({"mov", "mp4", "matroska", "webm"})
_FALLBACKS = ("mov", "mkv")
_FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}


@dataclass(frozen=True)
class Joined:
    """What was written."""

    frames: int
    audio_packets: tuple[int, ...]
    notes: tuple[str, ...]


def container_for(original: Path, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The container that can hold a target's sound unchanged: the wanted one, else QuickTime, else Matroska.

    Returns:
        "mp4", "mov" or "mkv", and sentences for the report, none where it is the wanted one.

    Raises:
        MediaError: container_unsupported, and those of opening the file.
    """
    with _original_container(original) as source:
        audio = _audio_streams(source)
        for container in dict.fromkeys((wanted, *_FALLBACKS)):
            if _supports(container, audio):
                codecs = ", ".join(sorted({stream.codec_context.name for stream in audio}))
                note = f"{wanted} cannot hold this sound ({codecs}): written as {container}."
                return container, () if container == wanted else (note,)
    raise MediaError("container_unsupported", f"No container can hold the sound of {original}.", "Convert its sound to AAC.")


def join_segments(
    segments: Sequence[Path],
    original: Path,
    output: Path,
    *,
    pts: np.ndarray,
    duration: np.ndarray,
    time_base: Fraction,
    title: str | None = None,
    comment: str | None = None,
) -> Joined:
    """Concatenate segments and add the original's sound, chapters and descriptive tags.

    Args:
        segments: files of ``SegmentWriter``, in order, written with equal settings.
        original: the target; every packet of its audio streams is copied. A still picture has none.
        output: the file to write; its suffix (.mp4, .mov, .mkv) is the container. Ask ``container_for`` first.
        pts, duration: int64 [frames] in ``time_base``, one for each frame of all segments together.
        title, comment: tags; the comment holds the provenance.

    Raises:
        MediaError: segments_differ (other settings or another number of frames), join_failed (what was written does not read
            back as it should).
    """
    delay = max(_reorder_delay(segment) for segment in segments)
    notes: list[str] = []
    with _original_container(original) as source:
        audio = _audio_streams(source)
        container = output.suffix.lstrip(".").lower()
        shift = _start_shift(source, time_base)
        if shift:
            notes.append(
                f"Timestamps count from the start of the file: {float(shift):.3f} seconds were taken off picture and sound."
            )
        options = {"fflags": "+bitexact"}
        if container != "mkv":
            options["video_track_timescale"] = str(time_base.denominator)
            options["movie_timescale"] = str(_movie_timescale(time_base, audio))
            options["movflags"] = "+faststart"
        with (
            av.open(str(output), "w", format=_FORMATS[container], options=options) as target,
            open_container(segments[0]) as first,
        ):
            video = target.add_stream_from_template(first.streams.video[0])
            video.time_base = time_base
            copies = {stream.index: target.add_stream_from_template(stream) for stream in audio}
            _copy_description(source, target, copies, title, comment)
            times = _Times(pts - int(shift / time_base), duration, time_base, delay)
            pictures = _video_packets(segments, times, video)
            sounds = _audio_packets(source, copies, shift) if source and copies else iter(())
            counts = _interleave(target, pictures, sounds, video)
    notes += _verify(output, times, container)
    return Joined(counts[video.index], tuple(counts[copy.index] for copy in copies.values()), tuple(notes))


@dataclass(frozen=True)
class _Times:
    """When each frame is shown, and how many frames the encoder may send one ahead of its turn."""

    pts: np.ndarray
    duration: np.ndarray
    time_base: Fraction
    delay: int

    def decoding(self, position: int) -> int:
        """Decoding time of the packet at a position of the file: ascending, and never after any frame's showing."""
        shown = position - self.delay
        if shown >= 0:
            return int(self.pts[shown])
        return int(self.pts[0]) + shown * max(1, int(self.duration[0]))


def _reorder_delay(segment: Path) -> int:
    """By how many positions the latest packet comes after its place in order of showing."""
    order = np.argsort(np.argsort(_segment_pts(segment)))
    return int(np.max(np.arange(len(order)) - order, initial=0))


def _segment_pts(segment: Path) -> list[int]:
    with open_container(segment) as container:
        return [packet.pts for packet in container.demux(container.streams.video[0]) if packet.size and packet.pts is not None]


def _video_packets(segments: Sequence[Path], times: _Times, video: Stream) -> Iterator[Packet]:
    start = 0
    extradata: bytes | None = None
    for segment in segments:
        ranks = np.argsort(np.argsort(_segment_pts(segment)))
        if start + len(ranks) > len(times.pts):
            raise _different(segment, f"There are more frames in the segments than the {len(times.pts)} of the target")
        with open_container(segment) as container:
            stream = container.streams.video[0]
            extradata = extradata or stream.codec_context.extradata
            if stream.codec_context.extradata != extradata:
                raise _different(segment, f"{segment} was encoded with other settings than the segments before it")
            packets = (packet for packet in container.demux(stream) if packet.size)
            for position, (packet, rank) in enumerate(zip(packets, ranks, strict=True)):
                frame = start + int(rank)
                packet.stream = video  # type: ignore[assignment]
                packet.time_base = times.time_base
                packet.pts = int(times.pts[frame])
                packet.dts = times.decoding(start + position)
                packet.duration = int(times.duration[frame])
                yield packet
        start += len(ranks)
    if start != len(times.pts):
        raise _different(segments[-1], f"The segments hold {start} frames, the target {len(times.pts)}")


def _audio_packets(source: InputContainer, copies: dict[int, Stream], shift: Fraction) -> Iterator[Packet]:
    packets = source.demux(list(source.streams.audio))
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # a file that was cut off: its sound ends here too
            return
        if packet.size == 0 or packet.stream.index not in copies:
            continue
        offset = round(shift / packet.time_base)
        if packet.pts is not None:
            packet.pts -= offset
        if packet.dts is not None:
            packet.dts -= offset
        packet.stream = copies[packet.stream.index]
        yield packet


def _interleave(target: OutputContainer, pictures: Iterator[Packet], sounds: Iterator[Packet], video: Stream) -> dict[int, int]:
    """Write both in order of decoding, so that the muxer holds little back; returns packets by stream."""
    counts = {stream.index: 0 for stream in target.streams}
    picture, sound = next(pictures, None), next(sounds, None)
    while picture is not None or sound is not None:
        if sound is None or (picture is not None and _seconds(picture) <= _seconds(sound)):
            assert picture is not None
            counts[video.index] += 1
            target.mux_one(picture)
            picture = next(pictures, None)
        else:
            counts[sound.stream.index] += 1
            target.mux_one(sound)
            sound = next(sounds, None)
    return counts


def _seconds(packet: Packet) -> Fraction:
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * (packet.time_base or Fraction(1))


class _NoContainer:
    """Stands for the container of a still picture: nothing to copy."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *reason: object) -> None:
        return None


def _original_container(path: Path) -> InputContainer | _NoContainer:
    return _NoContainer() if is_picture(path) else open_container(path)


def _supports(container: str, audio: Sequence[Stream]) -> bool:
    with av.open(io.BytesIO(), "w", format=_FORMATS[container]) as trial:
        names = trial.supported_codecs
    return all({stream.codec_context.codec.canonical_name, stream.codec_context.name} & names for stream in audio)


def _audio_streams(source: InputContainer | None) -> list[Stream]:
    return [stream for stream in source.streams.audio if stream.codec_context is not None] if source else []


def _start_shift(source: InputContainer | None, time_base: Fraction) -> Fraction:
    """What to take off every time: broadcast containers count from an arbitrary moment, MP4 and Matroska from zero."""
    if source is None or set(source.format.name.split(",")) & _KEEPS_OFFSET or not source.start_time or source.start_time < 0:
        return Fraction(0)
    return round(Fraction(source.start_time, av.time_base) / time_base) * time_base


def _movie_timescale(time_base: Fraction, audio: Sequence[Stream]) -> int:
    """A clock that both tracks' offsets are whole numbers of, where 32 bits allow it (for edit lists)."""
    scale = time_base.denominator
    for stream in audio:
        common = int(np.lcm(scale, stream.codec_context.sample_rate))
        scale = common if common < 2**31 else scale
    return scale


def _copy_description(
    source: InputContainer | None, target: OutputContainer, copies: dict[int, Stream], title: str | None, comment: str | None
) -> None:
    if source is not None:
        target.metadata.update({key: value for key, value in source.metadata.items() if key.lower() not in _TECHNICAL_TAGS})
        chapters = source.chapters()
        if chapters:
            target.set_chapters(chapters)
        for stream in source.streams.audio:
            if stream.index in copies and stream.language:
                copies[stream.index].metadata["language"] = stream.language
    if title:
        target.metadata["title"] = title
    if comment:
        target.metadata["comment"] = comment


def _different(segment: Path, reason: str) -> MediaError:
    return MediaError("segments_differ", f"{reason} ({segment.name}).", "Remove the segments and encode them again.")


def _verify(output: Path, times: _Times, container: str) -> list[str]:
    """Read the result back. Returns notes: Matroska counts milliseconds and knows no time before zero."""
    index = video_index(output)
    expected = [pts * times.time_base for pts in times.pts.tolist()]
    found = [pts * index.time_base for pts in index.pts.tolist()]
    loose = container == "mkv"
    offset = found[0] - expected[0] if loose and found else Fraction(0)
    tolerance = Fraction(1, 1000) if loose else Fraction(0)
    same = len(found) == len(expected) and all(abs(b - a - offset) <= tolerance for a, b in zip(expected, found, strict=True))
    if not same:
        raise MediaError(
            "join_failed",
            f"{output.name} does not have the target's {len(expected)} frame times.",
            "Report this with the target video: it is a fault of this program.",
        )
    if abs(offset) <= tolerance:
        return []
    return [f"Matroska has no time before zero: picture and sound start {float(offset):.3f} seconds later."]
