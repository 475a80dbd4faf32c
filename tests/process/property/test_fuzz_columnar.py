"""Damaged Parquet files: the process that reads them may die, the import says why and commits nothing."""

from hypothesis import given

from tests.property.logs import ROWS, imported, parquet
from tests.property.mutation import mutated


def test_the_undamaged_one_is_imported() -> None:
    assert imported("log.parquet", parquet(ROWS)) == 12


@given(mutated(parquet(ROWS)))
def test_damaged_parquet(data: bytes) -> None:
    imported("log.parquet", data)
