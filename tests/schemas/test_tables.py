"""Promises of the table schemas: named, versioned, without nulls."""

from __future__ import annotations

import pyarrow as pa
import pytest

from schemas import tables
from schemas.tables import TableSchema

ALL = [value for value in vars(tables).values() if isinstance(value, TableSchema)]
ALL += [tables.identity_table(40), tables.fit_table(57), tables.aligned_table(57)]


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.identity)
def test_no_column_may_hold_nulls(schema: TableSchema) -> None:
    for field in schema.arrow:
        assert not field.nullable, field.name
        if pa.types.is_fixed_size_list(field.type):
            assert not field.type.value_field.nullable, field.name


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.identity)
def test_name_and_version_travel_in_the_metadata(schema: TableSchema) -> None:
    assert schema.arrow.metadata == {b"headswap.schema": f"{schema.name}/{schema.version}".encode()}
    assert schema.version >= 1


def test_identities_are_unique() -> None:
    assert len({schema.identity for schema in ALL}) == len(ALL)
