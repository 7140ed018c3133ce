"""In every file: whose likeness was used on what ground, readable without this program."""

from __future__ import annotations

import json
from pathlib import Path

import av
import c2pa

from tests.integration.conftest import Headswap
from tests.signing import write_chain


def test_every_result_carries_its_provenance(headswap: Headswap, examples: Path, short_clip: Path, tmp_path: Path) -> None:
    certificate, key = write_chain(tmp_path)
    arguments = (
        "swap",
        examples / "portrait_chi.png",
        short_clip,
        "--rights",
        "release 2026-17, signed",
        "--store",
        tmp_path / "store",
    )
    plain, signed = tmp_path / "plain.mp4", tmp_path / "signed.mp4"
    assert headswap(*arguments, "-o", plain).status == 0
    ended = headswap(*arguments, "-o", signed, "--set", f"provenance.certificate={certificate}", "--set", f"provenance.key={key}")
    assert ended.status == 0, ended.err
    for video in (plain, signed):
        with av.open(str(video)) as container:
            embedded = json.loads(container.metadata["comment"])
        beside = json.loads(Path(f"{video}.provenance.json").read_text())
        for record in (embedded, beside):
            assert record["rights"] == "release 2026-17, signed"
            assert record["source_name"] == "portrait_chi.png"
            assert record["target_name"] == short_clip.name
            assert record["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
            assert len(record["source_digest"]) >= 32
    manifest = json.loads(c2pa.Reader(str(signed)).json())
    assert "release 2026-17, signed" in json.dumps(manifest)


def test_a_certificate_that_cannot_sign_is_refused_before_anything_is_done(
    headswap: Headswap, examples: Path, short_clip: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    arguments = ("swap", examples / "portrait_chi.png", short_clip, "-o", tmp_path / "out.mp4", "--rights", "synthetic")
    options = ("--store", tmp_path / "store", "--set", f"provenance.certificate={wrong}", "--set", f"provenance.key={wrong}")
    ended = headswap(*arguments, *options, "--json")
    assert ended.status == 2
    assert "wrong.pem holds no PEM certificate" in ended.document["error"]["message"]
    assert not (tmp_path / "out.mp4").exists(), "never an unsigned file where a signed one was asked for"
    assert not list((tmp_path / "store").rglob("ingest")), "no work was done for nothing"
