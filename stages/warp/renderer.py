"""The warp renderer behind the common interface."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.renderer import Generated, Portrait, Scene, Section
from stages.warp.colour import SkinStatistics, mean_statistics, saturation, shown_tone, skin_statistics, tone_gain, towards
from stages.warp.focus import Focus, as_soft_as, middle
from stages.warp.head import Head, compose


@dataclass(frozen=True)
class TargetFaces:
    """What was seen of the target's face in some frames of a shot, as far as it could be.

    Attributes:
        skin: colour and light. focus: how sharply it is shown.
    """

    skin: Sequence[SkinStatistics] = ()
    focus: Sequence[Focus] = ()


class WarpRenderer:
    """Moves the source's head by a mesh; needs no weights.

    Args:
        portrait: of the source.
        target: faces of some frames of the target's shot. They are the same for every chunk of the shot, so that colours do not
            jump where chunks meet; none leave the source's colours and its focus.
        match_neck: shade the target's neck towards the new head's skin.
    """

    def __init__(self, portrait: Portrait, target: TargetFaces, match_neck: bool = True) -> None:
        gain: NDArray[np.float32] | None = None
        face: NDArray[np.float32] | None = None
        colourfulness = 1.0
        found = skin_statistics(portrait.picture, portrait.landmarks)
        if target.skin and found is not None:
            skin = mean_statistics(target.skin)
            colourfulness = saturation(found, skin)
            tinted = towards(portrait.picture, portrait.landmarks, found, skin)
            portrait = replace(portrait, picture=tinted, colours=towards(portrait.colours, portrait.landmarks, found, skin))
            now = skin_statistics(tinted, portrait.landmarks)
            if match_neck and now is not None:
                gain, face = tone_gain(now, skin), shown_tone(skin)
        focus = middle(target.focus)
        if focus is not None:
            portrait = as_soft_as(portrait, focus)
        self._head = Head(portrait, colourfulness)
        self._gain, self._face = gain, face

    def render(self, section: Section) -> Generator[tuple[Scene, Generated], None, None]:
        """See ``Renderer``; each frame stands for itself."""
        for scene in section.scenes(section.frames):
            picture, head = compose(self._head, scene, self._gain, self._face)
            yield scene, Generated(scene.frame, picture, head)
