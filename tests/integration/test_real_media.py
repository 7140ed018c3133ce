"""Real clips and portraits: every one runs through, with the target's own frames, times and sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from stages.video.decode import timestamps
from tests.integration.conftest import Headswap


def sound(path: Path) -> list[tuple[bytes, float]]:
    """Every audio packet with its time."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        stream = container.streams.audio[0]
        return [(bytes(packet), float(packet.pts * stream.time_base)) for packet in container.demux(stream) if packet.size]


def check(job: dict[str, Any], target: Path) -> None:
    assert job["status"] == "done", job["failure"]
    result = Path(job["output"])
    pts, _, base = timestamps(target)
    found, _, found_base = timestamps(result)
    assert len(found) == len(pts)
    assert [float((value - found[0]) * found_base) for value in found] == pytest.approx(
        [float((value - pts[0]) * base) for value in pts], abs=1e-9
    )
    assert [data for data, _ in sound(result)] == [data for data, _ in sound(target)]
    assert job["generated"] > 0.9 * job["frames"]


def test_a_real_pair_keeps_frames_times_and_sound(
    shared: Path, headswap: Headswap, catalogue: Callable[..., Path], tmp_path: Path
) -> None:
    target = shared / "media" / "clips" / "asl_help_man_hand_occludes_chin.mkv"
    path = catalogue({"id": "one", "source": shared / "media" / "portraits" / "hallo_bust.jpg", "target": target})
    ended = headswap("run", path, "--store", tmp_path / "store", "--engine", "direct", "--json")
    assert ended.status == 0, ended.err
    check(ended.document["jobs"][0], target)


@pytest.mark.slow
def test_every_real_clip_with_two_portraits_keeps_frames_times_and_sound(
    shared: Path, headswap: Headswap, catalogue: Callable[..., Path], tmp_path: Path
) -> None:
    clips = sorted((shared / "media" / "clips").iterdir())
    portraits = sorted((shared / "media" / "portraits").iterdir())
    rows = {
        f"{portrait.stem}--{clip.stem}": (portrait, clip)
        for number, clip in enumerate(clips)
        for portrait in (portraits[number % len(portraits)], portraits[(number + 3) % len(portraits)])
    }
    path = catalogue(*({"id": name, "source": source, "target": target} for name, (source, target) in rows.items()))
    ended = headswap("run", path, "--store", tmp_path / "store", "--engine", "direct", "--json", timeout=5000)
    assert ended.status == 0, ended.err
    for job in ended.document["jobs"]:
        check(job, rows[job["id"]][1])
