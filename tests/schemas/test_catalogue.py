"""Promises of the catalogue: three formats read the same, and every problem is named at once, with its row and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalogue import (
    COLUMNS,
    REQUIRED,
    Catalogue,
    Job,
    edits_of,
    read_catalogue,
    resolve,
    safe_id,
)
from schemas.edits import load_edits, parse_edits
from schemas.problems import UsageError

ROW = {"id": "anna", "source": "anna.png", "target": "scene.mp4", "rights": "own likeness"}


def written(folder: Path, text: str, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def problems_of(path: str | Path, **options: Any) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        read_catalogue(path, **options)
    return caught.value.problems


def test_a_minimal_csv_gives_complete_jobs(tmp_path: Path) -> None:
    path = written(tmp_path, "id,source,target,rights\nanna,heads/anna.png,../scene.mp4,own likeness\n")
    (job,) = read_catalogue(path).jobs
    assert job == Job(
        id="anna",
        source=f"{tmp_path}/heads/anna.png",
        target=f"{tmp_path.parent}/scene.mp4",
        rights="own likeness",
    )
    assert (job.subject, job.edits, job.seed, job.renderer) == (None, None, 0, None)
    assert (job.output, job.container) == ("", None), "its name and container are for the configuration to say"


def test_csv_with_byte_order_mark_quotes_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    text = '\ufeffid,source,target,rights,edits\r\n\r\na,"s,1.png",t.mp4,"Müller, ""release"" 7","{""mirror"": true}"\r\n,,,,\r\n'
    (job,) = read_catalogue(written(tmp_path, text)).jobs
    assert job.source.endswith("/s,1.png")
    assert job.rights == 'Müller, "release" 7'
    assert load_edits(job.edits) == {"mirror": True}


def test_csv_json_lines_and_parquet_of_the_same_rows_are_the_same_catalogue(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {**ROW, "seed": 3, "renderer": "warp", "output": None, "subject": None},
        {**ROW, "id": "7", "seed": None, "renderer": None, "output": "x/7.mkv", "subject": "1"},
    ]
    csv_text = "id,source,target,rights,seed,renderer,output,subject\nanna,anna.png,scene.mp4,own likeness,3,warp,,\n"
    csv_text += "7,anna.png,scene.mp4,own likeness,,,x/7.mkv,1\n"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "jobs.parquet")
    json_rows = [rows[0], {**rows[1], "id": 7, "subject": 1}]
    lines = "\n\n".join(json.dumps(row) for row in json_rows)
    catalogues = [
        read_catalogue(written(tmp_path, csv_text)),
        read_catalogue(written(tmp_path, lines, "jobs.jsonl")),
        read_catalogue(tmp_path / "jobs.parquet"),
    ]
    assert catalogues[0].jobs == catalogues[1].jobs == catalogues[2].jobs
    assert len({catalogue.digest for catalogue in catalogues}) == 1
    assert catalogues[0].jobs[1].output == "x/7.mkv"
    assert catalogues[0].jobs[1].container == "mkv"


def test_edits_may_be_an_object_in_json_lines_and_parquet(tmp_path: Path) -> None:
    edits = {"curves": {"jawOpen": {"scale": 0.5}}}
    row = {**ROW, "edits": edits}
    # The second row's struct gives every field of the first one's a null, and has one of its own.
    other = {**ROW, "id": "b", "edits": {"curves": {"jawOpen": {"offset": 0.1}}}}
    pq.write_table(pa.Table.from_pylist([row, other]), tmp_path / "jobs.parquet")
    for path in (written(tmp_path, json.dumps(row), "jobs.jsonl"), tmp_path / "jobs.parquet"):
        assert load_edits(read_catalogue(path).jobs[0].edits) == edits


def test_every_problem_is_reported_at_once_with_row_and_column(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "id,source,target,rights,renderer,seed,output\n"
        "a,s.png,t.mp4,own likeness,warp,0,\n"
        "a,s.png,t.mp4,,wrap,x,\n"
        "b/c,,t.mp4,own likeness,,,../b.mp4\n"
        "a,s.png,t.mp4,own likeness,,,\n"
        "d,s.png,t.mp4,own likeness,,,A.mp4\n"
        "e,s.png,t.mp4,own likeness,,-1,e.gif\n",
    )
    problems = "\n".join(problems_of(path))
    for expected in (
        "row 2 (line 3), column 'rights': is missing: say on what ground",
        "row 2 (line 3), column 'renderer': 'wrap' is no renderer; did you mean 'warp'?",
        "row 2 (line 3), column 'seed': 'x' is not a whole number",
        "row 2 (line 3), column 'id': 'a' is taken by row 1 (line 2)",
        "row 3 (line 4), column 'source': is missing",
        "row 3 (line 4), column 'id': 'b/c' cannot name files",
        "'b-c'",
        "row 3 (line 4), column 'output': '../b.mp4' must be a plain file name",
        "row 4 (line 5), column 'id': 'a' is taken by row 1 (line 2)",
        "row 5 (line 6), column 'output': 'A.mp4' is written by job 'a' (row 1 (line 2))",
        "row 6 (line 7), column 'seed': '-1' is not a whole number",
        "row 6 (line 7), column 'output': 'e.gif' must end in",
    ):
        assert expected in problems
    assert len(problems.splitlines()) == 11


@pytest.mark.parametrize("rows", [("a,x.png,y.mp4,", "a,z.png,y.mp4,synthetic"), ("a,z.png,y.mp4,synthetic", "A,x.png,y.mp4,")])
def test_an_id_given_twice_is_told_even_where_one_of_its_rows_has_another_problem(tmp_path: Path, rows: tuple[str, str]) -> None:
    problems = problems_of(written(tmp_path, "\n".join(["id,source,target,rights", *rows])))
    assert len(problems) == 2
    assert "column 'rights': is missing" in problems[0]
    assert problems[1].startswith("row 2 (line 3), column 'id': ")
    assert "is taken by row 1 (line 2)" in problems[1]


def test_an_id_that_is_not_permitted_is_told_as_given_twice_too(tmp_path: Path) -> None:
    problems = problems_of(written(tmp_path, "id,source,target,rights\nb/c,s.png,t.mp4,own\nb/c,s.png,t.mp4,own\n"))
    assert ["'b/c' cannot name files" in problem for problem in problems] == [True, True, False]
    assert "row 2 (line 3), column 'id': 'b/c' is taken by row 1 (line 2)" in problems[2]


def test_an_output_given_twice_is_told_even_where_one_of_its_rows_has_another_problem(tmp_path: Path) -> None:
    rows = ["a,s.png,t.mp4,,x.mp4", "b,s.png,t.mp4,own,x.mp4", ",s.png,t.mp4,own,y.mp4", "d,s.png,t.mp4,own,Y.mp4"]
    problems = problems_of(written(tmp_path, "\n".join(["id,source,target,rights,output", *rows])))
    assert problems[2:] == (
        "row 2 (line 3), column 'output': 'x.mp4' is written by job 'a' (row 1 (line 2)) too; give every job its own file.",
        "row 4 (line 5), column 'output': 'Y.mp4' is written by row 3 (line 4) too; give every job its own file.",
    )


@pytest.mark.parametrize("output", ["../a.mp4", "a.gif", "/"])
def test_an_output_that_is_not_permitted_stands_in_nobody_s_way(tmp_path: Path, output: str) -> None:
    text = f"id,source,target,rights,output\nb,s.png,t.mp4,own,{output}\na,s.png,t.mp4,own,\n"
    (problem,) = problems_of(written(tmp_path, text))
    assert problem.startswith("row 1 (line 2), column 'output': ")


@pytest.mark.parametrize(("first", "second"), [("x/s.mp4", "x/S.mov"), ("s.v2.mkv", "s.v2.mp4"), ("", "a.mkv"), ("b.mkv", "")])
def test_outputs_that_a_fallback_would_make_one_file_are_refused_with_both_rows(tmp_path: Path, first: str, second: str) -> None:
    text = f"id,source,target,rights,output\na,s.png,t.mp4,own,{first}\nb,s.png,t.mp4,own,{second}\n"
    (problem,) = problems_of(written(tmp_path, text))
    assert problem.startswith("row 2 (line 3), column 'output': ")
    assert "of job 'a' (row 1 (line 2))" in problem
    assert repr(first or "a.mp4") in problem
    assert repr(second or "b.mp4") in problem


def test_outputs_that_differ_in_more_than_their_suffixes_are_accepted(tmp_path: Path) -> None:
    names = ("s.mp4", "x/s.mp4", "s.v2.mp4", "", "s.mp4.mp4")
    rows = "".join(f"j{number},s.png,t.mp4,own,{name}\n" for number, name in enumerate(names))
    assert len(read_catalogue(written(tmp_path, f"id,source,target,rights,output\n{rows}"))) == len(names)


def test_an_unknown_column_names_the_nearest_known_one(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, "id,source,target,rights,sead\na,s.png,t.mp4,own,1\n"))
    assert "unknown column 'sead'; did you mean 'seed'?" in problem
    (problem,) = problems_of(written(tmp_path, json.dumps({**ROW, "Renderer": "warp"}), "jobs.jsonl"))
    assert "row 1 (line 1): unknown column 'Renderer'; did you mean 'renderer'?" in problem


def test_a_missing_rights_column_is_one_problem_that_says_how_to_give_it(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, "id,source,target\na,s.png,t.mp4\nb,s.png,t.mp4\n"))
    assert "column 'rights' is missing: say on what ground the source's likeness is used" in problem
    assert '"own likeness"' in problem


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.jsonl", "jobs.parquet"])
def test_an_empty_catalogue_is_refused(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(
            pa.Table.from_pylist([], schema=pa.schema([(column, pa.string()) for column in REQUIRED])), tmp_path / name
        )
    else:
        written(tmp_path, "id,source,target,rights\n\n" if name.endswith("csv") else "\n", name)
    assert "has no rows" in problems_of(tmp_path / name)[0]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("jobs.csv", b"id,source,target,rights\na,s\xff.png,t.mp4,own\n", "not UTF-8 text: line 2 has the byte 0xff"),
        ("jobs.csv", "id,source,target,rights\n".encode("utf-16"), "UTF-16"),
        ("jobs.csv", b"id;source;target;rights\na;s;t;own\n", "not separated by commas"),
        ("jobs.csv", b'id,source,target,rights\na,"s.png,t.mp4,own\n', "not well-formed CSV"),
        ("jobs.csv", b"id,source,target,rights\na,s.png,t.mp4,own,more\n", "5 cells for 4 columns"),
        ("jobs.csv", b"id,id,source,target,rights\na,b,s.png,t.mp4,own\n", "column 'id' stands twice"),
        ("jobs.jsonl", b'{"id": "a"\n', "row 1 (line 1): is not a JSON object on one line"),
        ("jobs.jsonl", b"[1]\n", "is not a JSON object, but list"),
        ("jobs.parquet", b"PAR1 but no more", "cannot be read as Parquet"),
        ("jobs.csv", b"PAR1 and what follows", "is a Parquet file by its content"),
        ("jobs.txt", b"id,source,target,rights\n", "must end in .csv, .jsonl or .parquet"),
    ],
)
def test_a_damaged_file_is_explained(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert any(expected in problem for problem in problems_of(tmp_path / name))


def test_a_file_that_cannot_be_reached_is_explained(tmp_path: Path) -> None:
    assert "does not exist" in problems_of(tmp_path / "none.csv")[0]
    assert "is a folder" in problems_of(tmp_path)[0]
    assert "cannot be read" in problems_of("nosuchprotocol://jobs.csv")[0]
    assert "cannot be found" in problems_of("http://127.0.0.1:9/jobs.csv")[0]


def test_untrusted_catalogues_are_bounded(tmp_path: Path) -> None:
    path = written(tmp_path, "id,source,target,rights\n" + "".join(f"j{number},s.png,t.mp4,own\n" for number in range(50)))
    assert "larger than 100 bytes" in problems_of(path, maximum_bytes=100)[0]
    assert "more than 10 rows" in problems_of(path, maximum_rows=10)[0]
    assert len(read_catalogue(path, maximum_rows=50)) == 50
    bad = written(
        tmp_path, "id,source,target,rights\n" + "".join(f"j{number},s.png,t.mp4,\n" for number in range(1000)), "bad.csv"
    )
    listed = problems_of(bad)
    assert len(listed) == 201
    assert listed[-1] == "... and 800 more problems like these."


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        ("a.mp4", "s3://bucket/night/jobs.csv", "s3://bucket/night/a.mp4"),
        ("../a.mp4", "s3://bucket/night/jobs.csv", "s3://bucket/a.mp4"),
        ("a.mp4", "s3://bucket/jobs.csv", "s3://bucket/a.mp4"),
        ("/data/a.mp4", "s3://bucket/jobs.csv", "/data/a.mp4"),
        ("gs://other/a.mp4", "s3://bucket/jobs.csv", "gs://other/a.mp4"),
        ("a.mp4", "https://host/night/jobs.csv", "https://host/night/a.mp4"),
        ("file:///data/a.mp4", "/x/jobs.csv", "/data/a.mp4"),
        ("in/a.mp4", "zip://night/jobs.csv::s3://bucket/all.zip", "zip://night/in/a.mp4::s3://bucket/all.zip"),
        ("./b/../a.mp4", "/data/jobs.csv", "/data/a.mp4"),
    ],
)
def test_relative_media_are_found_beside_the_catalogue(path: str, base: str, expected: str) -> None:
    assert resolve(path, base) == expected


def test_a_remote_catalogue_cannot_leave_its_bucket(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/jobs.csv", "w") as file:
        file.write("id,source,target,rights\na,../../s.png,t.mp4,own\nb,htps://x/s.png,t.mp4,own\n")
    problems = problems_of("memory://bucket/jobs.csv")
    assert "column 'source': '../../s.png' leads out of memory://bucket" in problems[0]
    assert "htps:// is no known protocol; did you mean 'https'?" in problems[1]


def test_media_that_do_not_exist_are_no_problem_of_the_catalogue(tmp_path: Path) -> None:
    assert len(read_catalogue(written(tmp_path, "id,source,target,rights\na,none.png,none.mp4,own\n"))) == 1


def test_edits_from_a_file_are_resolved_beside_the_catalogue(tmp_path: Path) -> None:
    written(tmp_path, "smile:\n  offset: 0.2\n", "smile.yaml")
    (job,) = read_catalogue(written(tmp_path, "id,source,target,rights,edits\na,s.png,t.mp4,own,smile.yaml\n")).jobs
    assert load_edits(job.edits) == {"smile": {"offset": 0.2}}
    assert load_edits(None) is None
    for text, expected in (("- 1\n", "must be an object"), ("a: [\n", "cannot be read")):
        with pytest.raises(UsageError, match=expected):
            load_edits(str(written(tmp_path, text, "bad.yaml")))
    with pytest.raises(UsageError, match="does not exist"):
        load_edits(str(tmp_path / "none.yaml"))
    for odd in ("x" * 300, "~nobody-here/a.yaml"):
        with pytest.raises(UsageError, match=r"cannot be read|does not exist"):
            load_edits(odd)
    for folder in (str(tmp_path), ""):
        with pytest.raises(UsageError, match="is a folder; give the file itself"):
            load_edits(folder)


def test_bad_inline_edits_are_a_problem_of_their_row(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, 'id,source,target,rights,edits\na,s.png,t.mp4,own,"{smile"\n'))
    assert problem.startswith("row 1 (line 2), column 'edits': ")


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"curves": {"jawOpn": {}, "mouthPucker": {"scale": 9}}}, ("curves.jawOpn", "'jawOpen'", "curves.mouthPucker.scale")),
        ({"curves": {"jawOpen": {"keyframes": [{"frame": 0, "value": float("nan")}]}}}, ("keyframes.0.value", "finite")),
    ],
)
def test_inline_edits_that_cannot_be_made_are_found_before_anything_runs(
    tmp_path: Path, edits: dict[str, object], told: tuple[str, ...]
) -> None:
    (problem,) = problems_of(written(tmp_path, json.dumps({**ROW, "edits": edits}) + "\n", "jobs.jsonl"))
    assert problem.startswith("row 1 (line 1), column 'edits': ")
    assert all(part in problem for part in told), problem


@pytest.mark.parametrize("text", ['{"curves": {"jawOpen": {}, "jawOpen": {"scale": 2}}}', "head_scale: 1\nhead_scale: 2\n"])
def test_an_entry_given_twice_is_refused_in_json_and_yaml(text: str) -> None:
    with pytest.raises(ValueError, match="given twice"):
        parse_edits(text, "The edits")


def test_what_is_wrong_in_a_file_of_edits_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "curves:\n  jawOpen: {scale: .nan}\n", "wide.yaml")
    (job,) = read_catalogue(written(tmp_path, f"id,source,target,rights,edits\na,s.png,t.mp4,own,{path.name}\n")).jobs
    with pytest.raises(UsageError, match=r"wide\.yaml \(edits of job a\)\.curves\.jawOpen\.scale"):
        edits_of(job)


def test_a_number_too_long_to_read_is_a_problem_of_its_row(tmp_path: Path) -> None:
    digits = "7" * 5000
    (problem,) = problems_of(written(tmp_path, f'{{"id": "a", "seed": {digits}}}\n', "jobs.jsonl"))
    assert problem.startswith("row 1 (line 1): ")
    for text in (f'{{"a": {digits}}}', f"a: {digits}"):
        with pytest.raises(ValueError, match="The edits cannot be read"):
            parse_edits(text, "The edits")


def test_a_small_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    columns = {name: pa.array(["x"]).dictionary_encode().take([0] * 2000) for name in ("id", "source", "target")}
    rights = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["own " * 250_000]))
    path = tmp_path / "jobs.parquet"
    pq.write_table(pa.table({**columns, "rights": rights}), path, compression="zstd")
    assert path.stat().st_size < 1_000_000
    assert "unpacks to more than" in problems_of(path)[0]


def test_control_characters_reach_neither_terminals_nor_file_systems(tmp_path: Path) -> None:
    text = 'id,source,target,rights\na,"s\x1b[2J.png",t.mp4,own\nb,"s\n.png",t.mp4,"own\nlikeness"\n'
    problems = problems_of(written(tmp_path, text))
    assert ["column 'source'" in problem and "control character" in problem for problem in problems] == [True, True]
    assert "\x1b" not in "".join(problems)
    assert Job(**{**ROW, "rights": " own\n likeness "}).rights == "own likeness"


def test_a_subject_is_a_word_a_number_or_a_picture_beside_the_catalogue(tmp_path: Path) -> None:
    text = "id,source,target,rights,subject\na,s.png,t.mp4,own,largest\nb,s.png,t.mp4,own,1\nc,s.png,t.mp4,own,face.png\n"
    (tmp_path / "face.png").touch()
    assert [job.subject for job in read_catalogue(written(tmp_path, text))] == ["largest", "1", f"{tmp_path}/face.png"]


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("lagrest", "'lagrest' is neither 'largest', a number (0 is the largest head, 1 the next) nor a picture that is there; "),
        ("Largest", "did you mean 'largest'?"),
        ("-1", "'-1' is neither 'largest', a number"),
        ("1.5", "'1.5' is neither"),
        ("²", "'²' is neither"),
        ("faces", "faces' does not exist)."),
        ("pictures", "nor a picture that is there"),
    ],
)
def test_a_subject_that_is_no_word_number_or_picture_is_told_before_anything_runs(
    tmp_path: Path, subject: str, told: str
) -> None:
    (tmp_path / "pictures").mkdir()
    (problem,) = problems_of(written(tmp_path, f"id,source,target,rights,subject\na,s.png,t.mp4,own,{subject}\n"))
    assert problem.startswith("row 1 (line 2), column 'subject': ")
    assert told in problem


def test_a_negative_subject_is_refused_as_a_number_of_json_too(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, json.dumps({**ROW, "subject": -1}), "jobs.jsonl"))
    assert "column 'subject': '-1' is neither" in problem


@pytest.mark.parametrize(
    "subject", ["https://host.invalid/face.png", "s3://bucket/face.png", "zip://face.png::s3://bucket/a.zip"]
)
def test_a_subject_at_another_place_is_not_looked_for(tmp_path: Path, subject: str) -> None:
    path = written(tmp_path, f"id,source,target,rights,subject\na,s.png,t.mp4,own,{subject}\n")
    assert read_catalogue(path).jobs[0].subject == subject


def test_catalogues_made_by_programs_refuse_duplicates() -> None:
    job = Job(**ROW)
    assert Catalogue.of([job]).job("anna") is job
    with pytest.raises(UsageError, match="taken by job 1"):
        Catalogue.of([job, job])
    with pytest.raises(UsageError, match="did you mean 'anna'"):
        Catalogue.of([job]).job("ana")
    with pytest.raises(UsageError, match="no job"):
        Catalogue.of([])


def test_the_digest_changes_with_any_column(tmp_path: Path) -> None:
    base = Catalogue.of([Job(**ROW)]).digest
    changes = {
        "subject": "1",
        "edits": "{}",
        "output": "b.mp4",
        "seed": 1,
        "renderer": "warp",
        **dict.fromkeys(REQUIRED, "other"),
    }
    assert set(changes) == set(COLUMNS)
    assert base not in {Catalogue.of([Job(**{**ROW, name: value})]).digest for name, value in changes.items()}


@given(st.text(max_size=200))
def test_a_suggested_id_is_always_permitted(text: str) -> None:
    assert Job(**{**ROW, "id": safe_id(text)}).id


@given(st.text(max_size=40))
def test_no_output_name_leaves_the_output_folder(text: str) -> None:
    try:
        output = Job(**{**ROW, "output": text + ".mp4"}).output
    except ValueError:
        return
    assert Path("/out/" + output).resolve().is_relative_to("/out")


def test_the_documentation_names_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text()
    assert [name for name in COLUMNS if f"| `{name}` |" not in text] == []
