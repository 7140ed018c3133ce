"""What goes into which shard of a data set: decided by clips, parameters and hashes alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flows.clip_stages import Manifests
from flows.dataset_frames import Piece
from schemas.dataset import ClipUse, DatasetClip, DatasetParameters, for_both_splits
from schemas.problems import HeadswapError
from stages.training.shard_format import VERSION, ShardFormat
from storage.keys import digest_value

RECIPE = 3
"""Goes up when the same artifacts and parameters give other shards."""

SPLITS = ("train", "validation")


Runs = dict[str, list[list[int]]]
"""By reason the frames left out, as ``[start, stop]`` of runs: few numbers for a clip of hours."""


@dataclass
class PreparedClip:
    """A clip and what becomes of it in the data set. ``frames``: how many it has; ``excluded``: ``excluded_runs`` of it."""

    clip: DatasetClip
    number: int
    split: str
    manifests: Manifests = field(default_factory=dict)
    media: str = ""
    """Digest of the medium."""
    frames: int = 0
    excluded: Runs = field(default_factory=dict)
    pieces: tuple[Piece, ...] = ()
    failure: HeadswapError | None = None

    def fail(self, reason: HeadswapError) -> None:
        """Nothing of it goes in, for this reason."""
        self.failure, self.manifests, self.frames, self.excluded, self.pieces = reason, {}, 0, {}, ()


@dataclass(frozen=True)
class Shard:
    """A shard to be: its name without suffix, what goes in, and a digest of all that decides its content."""

    name: str
    pieces: tuple[Piece, ...]
    recipe: str

    @property
    def frames(self) -> int:
        return sum(len(piece.frames) for piece in self.pieces)


def excluded_runs(codes: npt.NDArray[np.str_]) -> Runs:
    """The frames left out, by reason. ``codes``: str [frames], as ``stages.training.selection.exclusions`` gives them."""
    bounds = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    found: Runs = {}
    for start, stop in itertools.pairwise(bounds):
        if start < stop and codes[start]:
            found.setdefault(str(codes[start]), []).append([start, stop])
    return found


def frames_in(runs: Sequence[Sequence[int]]) -> int:
    """How many frames runs hold."""
    return sum(stop - start for start, stop in runs)


def without_frames(prepared: Sequence[PreparedClip]) -> list[str]:
    """Remarks on splits that have no frames, since `headswap train` needs both, and with which share both would have some."""
    empty = [split for split in SPLITS if not any(one.pieces for one in prepared if one.split == split)]
    more = for_both_splits([ClipUse(one.clip.id, one.clip.identity, bool(one.pieces)) for one in prepared]) if empty else ""
    return [f"The split '{split}' has no frames, and `headswap train` needs both splits: {more}." for split in empty]


def plan_shards(prepared: Sequence[PreparedClip], kind: ShardFormat, parameters: DatasetParameters) -> list[Shard]:
    """Pieces of clips in the order of the catalogue, split by split, so many to a shard that it is full."""
    shards = []
    of = {one.number: one for one in prepared}
    for split in SPLITS:
        pieces = [piece for one in prepared if one.split == split for piece in one.pieces]
        group: list[Piece] = []
        groups = []
        for piece in pieces:
            group.append(piece)
            if sum(len(one.frames) for one in group) >= parameters.shard_frames:
                groups.append(group)
                group = []
        groups += [group] if group else []
        for number, members in enumerate(groups):
            name = f"{split}-{number:06d}"
            shards.append(Shard(name, tuple(members), _recipe(name, members, of, kind, parameters)))
    return shards


def _recipe(
    name: str, pieces: Sequence[Piece], of: Mapping[int, PreparedClip], kind: ShardFormat, parameters: DatasetParameters
) -> str:
    told = [
        {
            "clip": piece.clip.id,
            "number": piece.number,
            "person": piece.clip.identity,
            "rights": piece.clip.rights,
            # Shards whose rights are their clips' own keep the name that they were made under.
            **({"rights_said_of": piece.clip.rights_said_of} if piece.clip.rights_said_of != "clip" else {}),
            "segment": piece.segment,
            "frames": [piece.frames.start, piece.frames.stop],
            "media": of[piece.number].media,
            "artifacts": {stage: [one.digest for one in some] for stage, some in sorted(of[piece.number].manifests.items())},
        }
        for piece in pieces
    ]
    made = {"size": parameters.size, "pictures": parameters.pictures, "quality": parameters.quality}
    made["reference_interval"] = parameters.reference_interval
    return digest_value({"recipe": RECIPE, "version": VERSION, "name": name, "kind": kind, "made": made, "pieces": told})
