"""Stage ``assemble``: encoded segments, the target's sound and the result's provenance become one file."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from fractions import Fraction

from schemas.parameters import AssembleParameters
from stages.contract import Input, Scope, Stage, Work
from stages.ingest import stream_facts
from stages.video.encode import SEGMENT_NAME
from stages.video.join import container_for, join_segments
from stages.video.provenance import provenance_comment, provenance_record
from storage.artifacts import Artifact
from storage.tables import array


class Assemble(Stage):
    """Joins without encoding again: the target's number of frames, timestamps, rotation, colour tags and audio packets.

    Writes the file ``video.<container>``: of its parameters, or QuickTime or Matroska where that one cannot hold the sound.
    Facts: ``provenance``, which the file carries as its comment too; ``container``; ``audio_packets`` of each audio stream;
    ``notes`` for the report, those of ingest on the target among them.
    """

    name = "assemble"
    version = 1
    scope = Scope.JOB
    parameters = AssembleParameters
    inputs = (Input("ingest", of="target"), Input("encode", of="job"))
    media = ("target",)
    options = ("rights", "source_name", "target_name", "source_digest", "target_digest", "renderer")

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, AssembleParameters)
        target = work.media["target"]
        ingest = work.inputs.one("ingest", "target")
        facts = stream_facts(ingest.facts["stream"])
        segments = work.inputs.all("encode", "job")
        frames = ingest.table("frames", columns=["pts", "duration"])
        container, notes = container_for(target, parameters.container)
        provenance = provenance_record(
            work.options,
            software=importlib.metadata.version("headswap"),
            stage_versions={"assemble": self.version, **_versions([ingest, *segments])},
        )
        name = str(work.options.get("target_name") or target.stem)
        joined = join_segments(
            [segment.file(SEGMENT_NAME) for segment in segments],
            target,
            work.output.file(f"video.{container}"),
            pts=array(frames, "pts"),
            duration=array(frames, "duration"),
            time_base=Fraction(facts.time_base),
            title=f"{name} (head replaced)",
            comment=provenance_comment(provenance),
        )
        work.output.facts["provenance"] = provenance
        work.output.facts["container"] = container
        work.output.facts["audio_packets"] = list(joined.audio_packets)
        work.output.facts["notes"] = [*facts.notes, *notes, *joined.notes, *_left_out(facts.ignored_streams)]
        work.progress(joined.frames)


def _versions(artifacts: Sequence[Artifact]) -> Mapping[str, int]:
    return {artifact.manifest.stage: artifact.manifest.stage_version for artifact in artifacts}


def _left_out(kinds: Sequence[str]) -> list[str]:
    return [f"Streams of the target that are neither picture nor sound are left out: {', '.join(kinds)}."] if kinds else []
