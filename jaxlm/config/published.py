"""What the files of other people's models may say: `published.toml`, the one table.

    notes = check(path, values)      UserError where a value is not supported

A key that the table lacks is named in a note, unless its value is false or empty.
"""

import functools
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxlm.types import UserError


@functools.cache
def _table(name: str) -> tuple[set[str], dict[str, list], dict[str, list]]:
    """Keys of any value, keys of some values, and keys that are flags here."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    table = tables[name.replace("special_tokens_map", "tokenizer_config")]
    found = {*table["read"].split(), *table["free"].split()}
    return found, table["only"], table.get("flags", {})


def check(
    path: Path, values: Mapping[str, Any], name: str = "", read: Collection[str] = ()
) -> tuple[str, ...]:
    """Compare the content of a file with its table; what a user should know.

    Args:
        path: of the file.
        values: its content.
        name: of the table, if it is not that of the file.
        read: more keys that are read.
    """
    name = name or path.name
    free, only, flags = _table(name)
    if name == "config.json":  # old ones say how to generate, too
        more = _table("generation_config.json")
        free, only, flags = free | more[0], more[1] | only, more[2]
    unknown, notes = [], []
    for key, value in values.items():
        said = f"{key} = {json.dumps(value, ensure_ascii=False)[:80]}"
        if value is None or key in read or key in free:
            continue
        if key in flags:
            flag, *neutral = flags[key]
            if value not in neutral:
                notes.append(
                    f"{path.name}: {said} is not kept: jaxlm generate has --{flag}"
                )
        elif key not in only:
            unknown += [said] if value else []
        elif value not in only[key]:
            words = " or ".join(map(json.dumps, only[key])) or "null"
            raise UserError(f"{path}: {said} is not supported: jaxlm has {words}")
    if unknown:
        notes.append(f"{path.name}: jaxlm does not know {', '.join(unknown)}")
    return tuple(notes)
