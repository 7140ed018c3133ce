"""Lengths by header: near enough for an estimate, and never an error."""

from __future__ import annotations

from pathlib import Path

from stages.video.peek import stated_frames
from tests.media import moving_pictures, write_video


def test_headers_tell_how_long_clips_are(tmp_path: Path, examples: Path) -> None:
    mp4 = write_video(tmp_path / "a.mp4", moving_pictures(23))
    mkv = write_video(tmp_path / "a.mkv", moving_pictures(23))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    found = stated_frames([mp4, mkv, examples / "portrait_ada.png", text, tmp_path / "missing.mp4"])
    assert found[0] == 23
    assert found[1] is not None
    assert abs(found[1] - 23) <= 2
    assert found[2:] == [1, None, None]
