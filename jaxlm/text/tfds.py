"""TFDS datasets as sources: `tfds:NAME/CONFIG` or `tfds:DIRECTORY`.

    read_records(spec, start)              the texts of split "train", for a corpus
    read_columns(spec, split, columns)     some fields of each record, for a task

Only in the format array_record, which is read by number and without TensorFlow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxlm.types import UserError

TFDS = "tfds:"
_SPLIT = "train"
_AT_ONCE = 256  # records


def _builder(spec: str, split: str, fields: Sequence[str]):
    import tensorflow_datasets as tfds

    name = spec.removeprefix(TFDS)
    try:
        # A dataset's directory holds dataset_info.json, or a version that does.
        info = [*Path(name).glob("dataset_info.json"), *Path(name).glob("*/*info.json")]
        if info or name.startswith("gs://"):
            builder = tfds.builder_from_directory(info[-1].parent if info else name)
        else:
            builder = tfds.builder(name, try_gcs=False)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{spec} is no TFDS dataset: {reason}") from None
    if not builder.info.splits:
        raise UserError(
            f"{spec} is not in {builder.data_path}: make it with "
            f"`tfds build {name} --file_format=array_record`"
        )
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{spec} is in format {builder.info.file_format.value}: make it again with "
            "`tfds build --file_format=array_record`"
        )
    if split and split not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{spec} has no split {split!r}: it has {splits}")
    for field in fields:
        if field not in (builder.info.features or ()):
            have = ", ".join(builder.info.features or ())
            raise UserError(f'{spec} has no field "{field}": it has {have}')
    return builder


def split_names(spec: str) -> list[str]:
    """The splits of a dataset; UserError if it is not on this machine."""
    return list(_builder(spec, "", ()).info.splits)


def record_files(
    spec: str, split: str = _SPLIT, fields: Sequence[str] = ("text",)
) -> list[str]:
    """The files of a dataset's records.

    Raises:
        UserError: the dataset is not on this machine in this format, or it lacks the
            split or a field.
    """
    builder = _builder(spec, split, fields)
    return [str(path) for path in builder.info.splits[split].filepaths]


def read_records(spec: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, number of all, text) of each record from `start` on."""
    builder = _builder(spec, _SPLIT, ("text",))
    for number, count, record in _records(builder, _SPLIT, start):
        text = record["text"]
        yield number, count, text.encode() if isinstance(text, str) else text


def read_columns(spec: str, split: str, columns: Sequence[str]) -> Iterator[list[str]]:
    """Some fields of each record as text; a class by its name, "" if it has none."""
    builder = _builder(spec, split, columns)
    names = [getattr(builder.info.features[each], "names", None) for each in columns]

    def cell(value: Any, classes: Sequence[str] | None) -> str:
        if classes is not None:
            return classes[int(value)] if 0 <= int(value) < len(classes) else ""
        return value.decode() if isinstance(value, bytes) else str(value)

    for _, _, record in _records(builder, split, 0):
        yield [cell(record[c], n) for c, n in zip(columns, names, strict=True)]


def _records(builder: Any, split: str, start: int) -> Iterator[tuple[int, int, Any]]:
    records: Any = builder.as_data_source(split=split)
    for first in range(start, len(records), _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, len(records)))
        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
            yield number, len(records), record
