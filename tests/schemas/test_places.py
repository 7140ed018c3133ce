"""Access that is given for the store serves what lies beside it, and nothing else."""

from __future__ import annotations

import pytest

from schemas.places import options_for

OPTIONS = {"key": "secret"}


@pytest.mark.parametrize(
    ("url", "store", "shared"),
    [
        ("s3://media/a.mp4", "s3://bucket/store", True),
        ("s3://media/a.mp4", "s3a://bucket/store", True),
        ("gcs://media/a.mp4", "gs://bucket/store", True),
        ("https://example.org/a.mp4", "s3://bucket/store", False),
        ("/media/a.mp4", "s3://bucket/store", False),
        ("/media/a.mp4", "/store", False),
        ("a.mp4", None, False),
        ("simplecache::s3://media/a.mp4", "s3://bucket/store", False),
    ],
)
def test_the_options_of_the_store_open_places_of_its_kind_alone(url: str, store: str | None, shared: bool) -> None:
    assert options_for(url, store, OPTIONS) == (OPTIONS if shared else {})
