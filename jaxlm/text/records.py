"""TFDS datasets as sources: `tfds:NAME/CONFIG` or `tfds:DIRECTORY`, split "train".

Only the array_record format, which is read by number and without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.types import UserError

_SPLIT = "train"
_AT_ONCE = 256  # records


def _builder(spec: str):
    import tensorflow_datasets as tfds

    name = spec.removeprefix("tfds:")
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
    if _SPLIT not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{spec} has no split {_SPLIT!r}: it has {splits}")
    if "text" not in (builder.info.features or ()):
        fields = ", ".join(builder.info.features or ())
        raise UserError(f'{spec} has no field "text": it has {fields}')
    return builder


def record_files(spec: str) -> list[str]:
    """The files of a dataset's records.

    Raises:
        UserError: there is no such dataset on this machine, of this format, with text.
    """
    return [str(path) for path in _builder(spec).info.splits[_SPLIT].filepaths]


def read_records(spec: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, of how many, text) of each record from number `start` on."""
    records: Any = _builder(spec).as_data_source(split=_SPLIT)
    for first in range(start, len(records), _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, len(records)))
        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
            text = record["text"]
            yield number, len(records), text.encode() if isinstance(text, str) else text
