"""What the files of other people's models may say: `published.toml`, the one table.

    check(path, values)      UserError where a value is not supported

A key that the table lacks is named in a note, unless its value is false or empty.
"""

import functools
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxlm.types import UserError, note


@functools.cache
def _table(name: str) -> tuple[set[str], dict[str, list], dict[str, list], str]:
    """Keys of any value, keys of some values, keys that are flags here, and the remedy
    for unknown keys where they are refused."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    table = tables[name.replace("special_tokens_map", "tokenizer_config")]
    found = {*table["read"].split(), *table.get("free", "").split()}
    only, flags = table.get("only", {}), table.get("flags", {})
    return found, only, flags, table.get("refused", "")


def check(
    path: Path, values: Mapping[str, Any], name: str = "", read: Collection[str] = ()
) -> None:
    """Compare the content of a file with its table.

    Args:
        path: of the file.
        values: its content.
        name: of the table, if it is not that of the file.
        read: more keys that are read.
    """
    name = name or path.name
    free, only, flags, remedy = _table(name)
    if name == "config.json":  # old ones say how to generate, too
        more = _table("generation_config.json")
        free, only, flags = free | more[0], more[1] | only, more[2]
    unknown = []
    for key, value in values.items():
        said = f"{key} = {json.dumps(value, ensure_ascii=False)[:80]}"
        if value is None or key in read or key in free:
            continue
        if key in flags:
            flag, *neutral = flags[key]
            if value not in neutral:
                note(f"{path.name}: {said} is not kept: jaxlm generate has --{flag}")
        elif key not in only:
            unknown += [said] if value else []
        elif value not in only[key]:
            words = " or ".join(map(json.dumps, only[key])) or "null"
            way = f"; {remedy}" * bool(remedy)
            raise UserError(f"{path}: {said} is not supported: jaxlm has {words}{way}")
    if unknown and remedy:
        raise UserError(f"{path}: {unknown[0]} is not supported; {remedy}")
    if unknown:
        note(f"{path.name}: jaxlm does not know {', '.join(unknown)}")
