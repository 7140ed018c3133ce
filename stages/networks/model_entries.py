"""What is known about models: the built-in entries, and those that a folder of models declares itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas.problems import UsageError
from schemas.written import read_yaml
from stages.networks.weights import Kind


class ModelEntry(BaseModel):
    """What is known about a model, whether its file is there or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    file: str = Field(description="file name in the folder of models; of a pipeline its folder's")
    kind: Literal[Kind, "pipeline"]
    licence: str
    commercial: bool = Field(description="whether the licence allows commercial use")
    serves: str = Field(description="what gets better with it")
    origin: str = Field("", description="where it comes from, in words")
    url: str = Field("", description="where pull finds it: http(s)")
    member: str = Field("", description="the file inside a zip archive at the URL")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="of the file; empty where it is not known")
    arrays: tuple[str, ...] = Field((), description="arrays that the file must hold")
    note: str = Field("", description="what to do where it cannot be pulled")

    @field_validator("file")
    @classmethod
    def _file_is_a_plain_name(cls, value: str) -> str:
        if Path(value).name != value or value.startswith("."):
            raise ValueError("must be a plain file name")
        return value

    @field_validator("url")
    @classmethod
    def _url_is_of_the_web(cls, value: str) -> str:
        if value and not value.startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return value


KNOWN: tuple[ModelEntry, ...] = (
    ModelEntry(
        name="hair_segmentation",
        file="hair_segmentation.tflite",
        kind="tflite",
        licence="Apache-2.0",
        commercial=True,
        serves="masks: hair by a network instead of colour models",
        origin="MediaPipe, Google",
        url="https://storage.googleapis.com/mediapipe-assets/hair_segmentation.tflite",
        sha256="d2c940c4fd80edeaf38f5d7387d1b4235ee320ed120080df67c663e749e77633",
    ),
    ModelEntry(
        name="ict",
        file="ict_facekit.npz",
        kind="npz",
        licence="MIT",
        commercial=True,
        serves="performers and face-model build: a full head mesh with 100 identity and 57 expression directions",
        origin="ICT-FaceKit, USC Institute for Creative Technologies: its .obj files packed into one array file",
        sha256="b121af232c9f578b60b3057cab93e02d625a385f984016677fc7777cd8b339a4",
        arrays=(
            "neutral",
            "identity",
            "expression",
            "expression_names",
            "triangles",
            "triangle_material",
            "materials",
            "uv",
            "triangle_uv",
            "multipie68",
        ),
        note="It cannot be pulled: `headswap models pack-ict FaceXModel FILE` makes it of the files of "
        "github.com/ICT-VGL/ICT-FaceKit, `headswap models add ict FILE` registers it.",
    ),
    ModelEntry(
        name="lama",
        file="big-lama.pt",
        kind="torchscript",
        licence="Apache-2.0",
        commercial=True,
        serves="inpaint: background that no frame shows, painted by a network instead of OpenCV",
        origin="LaMa (Samsung AI), TorchScript of the simple-lama-inpainting release",
        url="https://github.com/enesmsahin/simple-lama-inpainting/releases/download/v0.1.0/big-lama.pt",
        sha256="7ba7aa7ac37a4d41fdbbeba3a2af7ead18058552997e3a3cd1a3b2210c9e6b4c",
    ),
    ModelEntry(
        name="arcface",
        file="w600k_r50.onnx",
        kind="onnx",
        licence="non-commercial research only (InsightFace model packs)",
        commercial=False,
        serves="measures and training: likeness to the source",
        origin="InsightFace, pack buffalo_l",
        url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        member="w600k_r50.onnx",
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
)


def declared_entries(path: Path) -> list[ModelEntry]:
    """Entries of a ``models.yaml``; none where it does not exist. ``UsageError`` with all that is wrong in it."""
    if not path.is_file():
        return []
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError([f"{path} cannot be read: {' '.join(str(error).split())}."]) from error
    if not isinstance(content, dict):
        raise UsageError([f"{path} must hold names and their entries."])
    problems: list[str] = []
    entries: list[ModelEntry] = []
    files = {entry.file: entry.name for entry in KNOWN}
    for name, values in content.items():
        if any(entry.name == name for entry in KNOWN):
            problems.append(f"{path}: {name} is a built-in model; choose another name.")
        elif isinstance(values, dict) and values.get("kind") == "pipeline":
            problems.append(f"{path}: {name} is a pipeline; register it with `headswap models add {name} FOLDER`.")
        elif not isinstance(values, dict):
            problems.append(f"{path}: {name} must have entries: file, kind, licence, commercial, serves.")
        else:
            try:
                entry = ModelEntry.model_validate({**values, "name": name})
            except ValidationError as error:
                problems += [f"{path}: {name}.{'.'.join(map(str, found['loc']))}: {found['msg']}." for found in error.errors()]
                continue
            owner = files.setdefault(entry.file, entry.name)
            if owner != entry.name:
                problems.append(f"{path}: {name}.file: {entry.file} belongs to {owner}.")
            entries.append(entry)
    if problems:
        raise UsageError(problems)
    return entries
