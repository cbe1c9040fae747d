"""JSON objects in files."""

from __future__ import annotations

import json
from pathlib import Path

from jaxlm.types import UserError


def write_json(path: Path, content: dict | list) -> None:
    """Readable JSON with a final newline, the same bytes for equal content."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """The object in a JSON file; UserError names a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
