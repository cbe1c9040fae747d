"""Sources that are read record by record: TFDS, columns of CSV and Parquet, dumps.

A row of a table becomes a line of JSON with one column, so that the rules of `.jsonl`
hold for tables too.
"""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from jaxlm.config.checks import optional
from jaxlm.text.sources import (
    LONGEST_RECORD,
    Record,
    Source,
    explained,
    no_field,
    open_file,
    open_source,
    read_csv,
    read_records,
)
from jaxlm.text.wiki import read_articles
from jaxlm.types import UserError

_AT_ONCE = 64  # rows of Parquet


def _line(source: Source, number: int, cell: Any) -> bytes:
    line = json.dumps({source.field: cell}, ensure_ascii=False, default=repr)
    if len(line) > LONGEST_RECORD:
        raise UserError(f"{source.name}, record {number + 1} is longer than 32 MiB")
    return line.encode("utf-8", "surrogateescape")


def _read_csv(source: Source, start: int) -> Iterator[Record]:
    """The cells of the column that the header names; quoting as in RFC 4180."""
    with open_source(source) as (unpacked, packed):
        # Bytes that are not UTF-8 stay as they are, for `texts_of` to judge.
        text = io.TextIOWrapper(unpacked, "utf-8-sig", "surrogateescape", newline="")
        rows = ((where, row) for where, row in read_csv(source.name, text) if row)
        _, header = next(rows, ("", []))
        if source.field not in header:
            raise no_field(source.name, source.field, header)
        if header.count(source.field) > 1:
            raise UserError(f"{source.name} has two columns {source.field!r}")
        column = header.index(source.field)
        for number, (where, row) in enumerate(rows):
            if len(row) != len(header):
                columns = f"{len(row)} columns, the first line has {len(header)}"
                raise UserError(f"{where}: {columns}")
            if number >= start:
                yield number, _line(source, number, row[column]), packed.tell()


def _read_parquet(source: Source, start: int) -> Iterator[Record]:
    """The cells of a column of strings or lists, read in parts of a row group."""
    package = "'jaxlm[parquet]' (or pyarrow)"
    parquet = optional("pyarrow.parquet", source.name, package)
    pa = optional("pyarrow", source.name, package)
    with explained(source.name), open_file(source.files[0]) as file:
        try:
            table = parquet.ParquetFile(
                file, buffer_size=1 << 20, page_checksum_verification=True
            )
            if source.field not in table.schema_arrow.names:
                raise no_field(source.name, source.field, table.schema_arrow.names)
            kind = str(table.schema_arrow.field(source.field).type)
            if "string" not in kind:
                what = f"the column {source.field} is of {kind}, not text"
                raise UserError(f"{source.name}: {what}")
            number, rows = 0, table.metadata.num_rows
            for group in range(table.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if number + size <= start:
                    number += size
                    continue
                for batch in table.iter_batches(_AT_ONCE, [group], [source.field]):
                    for cell in batch.column(0).to_pylist():
                        if number >= start:
                            read = source.size * number // rows
                            yield number, _line(source, number, cell), read
                        number += 1
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{source.name} is damaged: {reason}") from None


READERS: dict[str, Callable[[Source, int], Iterator[Record]]] = {
    "tfds": read_records,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "wiki": read_articles,
}
