"""Signed results: the manifest says what was done, and one changed byte is noticed."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace

import c2pa
import pytest
from cryptography.hazmat.primitives import serialization
from PIL import Image

from schemas.problems import MediaError, UsageError
from stages.video import provenance
from stages.video.provenance import DIGITAL_SOURCE_TYPE, RECORD_LABEL, provenance_comment, provenance_record, sign
from tests.media import cut_off, moving_pictures, write_video
from tests.signing import write_chain

RECORD = provenance_record(
    {"rights": "own likeness", "renderer": "warp", "edits": 3}, software="1", stage_versions={"b": 2, "a": 1}
)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_chain(tmp_path_factory.mktemp("credentials"))


def manifest(path: Path) -> tuple[dict, dict]:
    with c2pa.Reader(str(path)) as reader:
        document = json.loads(reader.json())
    return document, document["manifests"][document["active_manifest"]]


@pytest.mark.parametrize("with_target", [True, False])
def test_a_signed_result_says_what_was_done(tmp_path: Path, credentials: tuple[Path, Path], with_target: bool) -> None:
    video = write_video(tmp_path / "video.mp4", moving_pictures(5), audio=True)
    target = write_video(tmp_path / "target.mp4", moving_pictures(5, seed=1)) if with_target else None
    output = tmp_path / "signed.mp4"
    sign(video, output, certificate=credentials[0], key=credentials[1], target=target, facts=RECORD)
    document, active = manifest(output)
    assert document["validation_state"] == "Valid"
    assertions = {entry["label"]: entry["data"] for entry in active["assertions"]}
    actions = assertions["c2pa.actions.v2"]["actions"]
    assert [action["action"] for action in actions] == ["c2pa.opened" if with_target else "c2pa.created", "c2pa.edited"]
    assert actions[1]["digitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert assertions[RECORD_LABEL] == RECORD
    if with_target:
        (ingredient,) = active["ingredients"]
        assert (ingredient["relationship"], ingredient["title"]) == ("parentOf", "target.mp4")


@pytest.mark.parametrize("kind", ["matroska", "cut off", "picture"])
def test_any_target_can_be_named_in_a_signed_result(tmp_path: Path, credentials: tuple[Path, Path], kind: str) -> None:
    video = write_video(tmp_path / "video.mp4", moving_pictures(3))
    if kind == "matroska":
        target = write_video(tmp_path / "target.mkv", moving_pictures(3))
    elif kind == "picture":
        target = tmp_path / "target.png"
        Image.fromarray(moving_pictures(1)[0]).save(target)
    else:
        target = cut_off(write_video(tmp_path / "whole.mp4", moving_pictures(20)), tmp_path / "target.mp4")
    sign(video, tmp_path / "signed.mp4", certificate=credentials[0], key=credentials[1], target=target, facts=RECORD)
    document, active = manifest(tmp_path / "signed.mp4")
    assert document["validation_state"] == "Valid"
    assert any(entry["label"] == RECORD_LABEL for entry in active["assertions"])


def test_a_changed_byte_is_noticed(tmp_path: Path, credentials: tuple[Path, Path]) -> None:
    video = write_video(tmp_path / "video.mp4", moving_pictures(5))
    sign(video, tmp_path / "signed.mp4", certificate=credentials[0], key=credentials[1])
    data = bytearray((tmp_path / "signed.mp4").read_bytes())
    position = data.index(b"mdat") + 200
    data[position] ^= 1
    (tmp_path / "changed.mp4").write_bytes(bytes(data))
    assert manifest(tmp_path / "changed.mp4")[0]["validation_state"] == "Invalid"


def test_what_cannot_be_signed_says_why(tmp_path: Path, credentials: tuple[Path, Path]) -> None:
    chain, key = credentials
    matroska = write_video(tmp_path / "video.mkv", moving_pictures(2))
    with pytest.raises(MediaError, match=r"holds no C2PA manifest.*a name that ends in \.mp4"):
        sign(matroska, tmp_path / "x.mkv", certificate=chain, key=key)
    video = write_video(tmp_path / "video.mp4", moving_pictures(2))
    with pytest.raises(UsageError, match=r"nothing\.pem"):
        sign(video, tmp_path / "x.mp4", certificate=tmp_path / "nothing.pem", key=key)
    with pytest.raises(UsageError, match="no PEM certificate"):
        sign(video, tmp_path / "x.mp4", certificate=key, key=key)
    assert not (tmp_path / "x.mp4").exists()


def test_credentials_that_cannot_sign_are_known_before_anything_is_signed(
    tmp_path: Path, credentials: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = credentials
    assert provenance.credentials(chain, key) == (chain.read_bytes(), key.read_bytes(), "es256")
    (tmp_path / "other").mkdir()
    _, other = write_chain(tmp_path / "other")
    with pytest.raises(UsageError, match=r"key\.pem is not the key of the first certificate in .*chain\.pem"):
        provenance.credentials(chain, other)
    with pytest.raises(UsageError, match=r"chain\.pem holds no private key"):
        provenance.credentials(chain, chain)

    (tmp_path / "folder.pem").mkdir()
    with pytest.raises(UsageError, match=r"folder\.pem given for signing cannot be read") as caught:
        provenance.credentials(tmp_path / "folder.pem", tmp_path / "none.pem")
    assert len(caught.value.problems) == 2
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=40)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda zone: later), UTC=datetime.UTC)
    monkeypatch.setattr(provenance, "datetime", clock)
    with pytest.raises(UsageError, match=r"chain\.pem is valid from .* only"):
        provenance.credentials(chain, key)


def test_a_trial_finds_what_only_signing_finds(tmp_path: Path, credentials: tuple[Path, Path]) -> None:
    chain, key = credentials
    provenance.try_signing(chain, key)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    old_form = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (tmp_path / "old.pem").write_bytes(old_form)
    provenance.credentials(chain, tmp_path / "old.pem")
    with pytest.raises(UsageError, match=r"chain\.pem and .*old\.pem cannot sign"):
        provenance.try_signing(chain, tmp_path / "old.pem")


def test_the_record_is_the_same_for_the_same_work() -> None:
    assert "edits" not in RECORD
    assert provenance_comment(RECORD) == provenance_comment(json.loads(provenance_comment(RECORD)))
    assert list(RECORD["stage_versions"]) == ["a", "b"]
