"""Model directories with damaged files: refused in words or read, no traceback."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
from exported import export
from test_vectors import model as tiny

from jaxlm.convert.elmo import from_params
from jaxlm.convert.model_directory import export_model, read_model
from jaxlm.types import UserError

pytestmark = pytest.mark.usefixtures("without_type_checks")
CONTENTS = {
    "empty": b"",
    "blank": b"\n\n",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
}
VALUES = (None, -1, 0, 10**12, 1.5, True, "x", [], [[1]], {}, float("nan"))


def directory(out, name):
    if name == "elmo":
        module, params, tokenizer = tiny("elmo")
        export_model(out, from_params(module.config, params), tokenizer, origin={})
        (out / "jaxlm_export.json").unlink()
        return out
    export(out, name)
    return out


def opened(out, what: str) -> None:
    """Open a directory; anything but a UserError is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_model(out, lambda _, leaf: leaf)
        except UserError as error:
            assert str(error)
        except Exception as error:
            pytest.fail(f"{what}: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("name", "ours"), [("bert", True), ("gpt2", False), ("elmo", True)]
)
def test_damaged_files_are_refused_in_words(name, ours, tmp_path):
    out = directory(tmp_path / "out", name)
    if not ours:  # as others publish it
        (out / "jaxlm_tokenizer.json").unlink()
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        whole = path.read_bytes()
        for what, content in {**CONTENTS, "torn": whole[: len(whole) // 2]}.items():
            path.write_bytes(content)
            opened(out, f"{path.name} {what}")
        path.unlink()
        opened(out, f"{path.name} missing")
        path.write_bytes(whole)
    opened(out, "whole")


def places(content, at=()):
    """The paths of all values of a JSON file."""
    inside = content.items() if isinstance(content, dict) else ()
    inside = enumerate(content[:2]) if isinstance(content, list) else inside
    for key, each in inside:
        yield (*at, key)
        yield from places(each, (*at, key))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert", "config.json"),
        ("gpt2", "config.json"),
        ("elmo", "options.json"),
        ("bert", "jaxlm_tokenizer.json"),
    ],
)
def test_values_of_any_type_are_refused_in_words(name, file, tmp_path):
    path = directory(tmp_path / "out", name) / file
    content = json.loads(path.read_text())
    values = itertools.cycle(VALUES)
    for at in places(content):
        for value in itertools.islice(values, 4):
            edited = json.loads(json.dumps(content))
            inner = edited
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = value
            path.write_text(json.dumps(edited))
            opened(path.parent, f"{at} = {value!r}")
