"""Where a result comes from: a record inside every file, and a signed C2PA manifest where a certificate is configured.

The record and the manifest say the same: the target video was opened and edited, and the result is a composite with
synthetic parts (digital source type of the IPTC).
"""

from __future__ import annotations

import datetime
import io
import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from schemas.problems import MediaError, UsageError

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
RECORD_LABEL = "org.headswap.provenance"
RECORD_VERSION = 1

_FIELDS = ("rights", "source_name", "target_name", "source_digest", "target_digest", "renderer")
_EC_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def provenance_record(options: Mapping[str, Any], *, software: str, stage_versions: Mapping[str, int]) -> dict[str, Any]:
    """What was done, to what, on what ground: JSON values without dates, equal for equal work.

    Args:
        options: ``rights`` (on what ground the source's likeness is used), ``source_name``, ``target_name``, ``source_digest``,
            ``target_digest`` (of the media's bytes) and ``renderer`` (its name; of diffusion also pipeline, digest and terms);
            absent ones are left out.
        software: version of this program.
        stage_versions: of the stages that made the result.
    """
    return {
        "record_version": RECORD_VERSION,
        "action": "The head of the person in the target video was replaced by the head in the source picture.",
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "software": "headswap",
        "software_version": software,
        "stage_versions": dict(sorted(stage_versions.items())),
        **{name: options[name] for name in _FIELDS if options.get(name) is not None},
    }


def provenance_comment(record: Mapping[str, Any]) -> str:
    """The record as one line, for the container's comment tag."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sign(
    video: Path,
    output: Path,
    *,
    certificate: Path,
    key: Path,
    target: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a signed copy of a finished video. Signing is the last step: any later change breaks the signature.

    The manifest holds ``c2pa.opened`` with the target as ``parentOf`` (``c2pa.created`` where C2PA cannot read the target's
    file or none is given; the record then names it by its digest), then ``c2pa.edited`` (C2PA specification, section
    "Actions"), and ``facts`` as an assertion.

    Args:
        video: finished MP4 or QuickTime file.
        output: signed copy to write; not the same file.
        certificate: PEM chain, the signer's certificate first. ES256, ES384, ES512, PS256 or Ed25519.
        key: PEM private key, PKCS #8, without a pass phrase.
        target: the video that was edited.
        facts: provenance record.

    Raises:
        UsageError: certificate or key missing, unreadable, or of a kind that C2PA does not know.
        MediaError: signing_failed, for instance a container that cannot hold a manifest (Matroska).
    """
    kind = mimetypes.guess_type(video.name)[0] or ""
    if kind not in c2pa.Builder.get_supported_mime_types():
        raise MediaError(
            "signing_failed",
            f"{video.name} cannot be signed: a {video.suffix or 'nameless'} file holds no C2PA manifest.",
            "Give the result a name that ends in .mp4 (or .mov) and the target AAC sound, which fits it, or switch signing off.",
        )
    given = credentials(certificate, key)
    try:
        signer = _signer(*given)
        builder = _builder(video, kind, target, facts)
        with signer, builder, video.open("rb") as source, output.open("w+b") as signed:
            builder.sign(signer, kind, source, signed)
    except c2pa.C2paError as error:
        output.unlink(missing_ok=True)
        raise MediaError(
            "signing_failed",
            f"{video.name} could not be signed with {certificate.name} ({error}).",
            "Check that the certificate allows digital signatures, has not expired, and belongs to the key.",
        ) from error


def _signer(chain: bytes, private: bytes, algorithm: str) -> c2pa.Signer:
    """Of ``credentials``. Raises C2paError for what C2PA does not sign with."""
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.encode(), chain, private, None))


def _builder(video: Path, kind: str, target: Path | None, facts: Mapping[str, Any] | None) -> c2pa.Builder:
    """With the target as an ingredient where C2PA can read it: not Matroska, not a file that is cut off."""
    if target is not None:
        builder = c2pa.Builder.from_json(_manifest(video, target, facts))
        ingredient = json.dumps({"title": target.name, "relationship": "parentOf", "label": "target"})
        try:
            with target.open("rb") as stream:
                builder.add_ingredient(ingredient, mimetypes.guess_type(target.name)[0] or kind, stream)
        except c2pa.C2paError:
            builder.close()
        else:
            return builder
    return c2pa.Builder.from_json(_manifest(video, None, facts))


def _manifest(video: Path, target: Path | None, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    start: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}
    if target is not None:
        start = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"]}}
    actions = [
        start,
        {
            "action": "c2pa.edited",
            "digitalSourceType": DIGITAL_SOURCE_TYPE,
            "softwareAgent": {"name": "headswap"},
            "description": "The head of the person was replaced.",
        },
    ]
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    if facts:
        assertions.append({"label": RECORD_LABEL, "data": dict(facts)})
    return {
        "claim_generator_info": [{"name": "headswap"}],
        "title": video.name,
        "format": mimetypes.guess_type(video.name)[0],
        "assertions": assertions,
    }


def try_signing(certificate: Path, key: Path) -> None:
    """Sign a picture of one pixel, to know before any work is done that certificate and key can sign.

    Raises:
        UsageError: they cannot, and why.
    """
    given = credentials(certificate, key)
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    picture.seek(0)
    try:
        signer = _signer(*given)
        builder = c2pa.Builder.from_json(_manifest(Path("trial.png"), None, None))
        with signer, builder:
            builder.sign(signer, "image/png", picture, io.BytesIO())
    except c2pa.C2paError as error:
        raise UsageError(
            [f"{certificate} and {key} cannot sign ({error})."],
            "Give a chain whose first certificate allows digital signatures and was issued by the next, and its key as PKCS #8.",
        ) from error


def credentials(certificate: Path, key: Path) -> tuple[bytes, bytes, str]:
    """What signs: the chain and the private key as they stand in their files, and C2PA's name of the algorithm.

    Raises:
        UsageError: a file cannot be read or holds something else, the key is not the certificate's, the certificate is not valid
            now, or of a kind that C2PA does not know.
    """
    content: list[bytes] = []
    problems: list[str] = []
    for path in (certificate, key):
        try:
            content.append(path.read_bytes())
        except (OSError, ValueError) as error:
            told = error.strerror if isinstance(error, OSError) else error
            problems.append(f"The file {path} given for signing cannot be read ({told}).")
    if problems:
        raise UsageError(problems, "Correct the path or its permissions, or switch signing off.")
    chain, private = content
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        public = leaf.public_key()
    except (ValueError, IndexError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UsageError([f"{certificate} holds no PEM certificate ({error})."], "Give the chain, the signer first.") from error
    try:
        of_key = serialization.load_pem_private_key(private, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            [f"{key} holds no private key that can be read ({error})."], "Give a PEM file (PKCS #8) without a pass phrase."
        ) from error
    if of_key != public:
        raise UsageError(
            [f"{key} is not the key of the first certificate in {certificate}."], "Give the chain, the signer first."
        )
    if not leaf.not_valid_before_utc <= datetime.datetime.now(datetime.UTC) <= leaf.not_valid_after_utc:
        raise UsageError(
            [f"{certificate} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d} only."],
            "Renew it, or switch signing off.",
        )
    algorithm = None
    if isinstance(public, ec.EllipticCurvePublicKey):
        algorithm = _EC_ALGORITHMS.get(public.curve.name)
    elif isinstance(public, ed25519.Ed25519PublicKey):
        algorithm = "ed25519"
    elif isinstance(public, rsa.RSAPublicKey):
        algorithm = "ps256"
    if algorithm is None:
        raise UsageError([f"The key of {certificate} is of a kind that C2PA does not know."], "Use an ES256 certificate.")
    return chain, private, algorithm
