"""Imports go down the floors below, never between rooms of one floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jaxlm"
FLOORS = (
    "types memory signals __version__",
    "files hosts",
    "keys tree config losses mesh lease",
    "sharding xla page",
    "text models metrics devices",
    "data objectives checkpoints",
    "families",
    "evaluation",
    "train",
    "tasks generate probe convert vectors scoring plan",
    "open",
    "zeroshot report playground",
    "cli",
    "api",
    "__init__ __main__",
)
FLOOR_OF = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}
DEVICES = {"jax", "jaxlib", "flax", "optax", "orbax"}  # text and config live without
OPTIONAL = {"torch", "transformers", "tensorflow", "onnx", "gguf", "spacy"}
OPTIONAL |= {"rjieba", "libtpu", "onnxruntime", "xllamacpp", "sentence_transformers"}
OPTIONAL |= {"gcsfs", "sklearn", "scipy"}
OPTIONAL |= {"lm_eval", "rouge_score", "sacrebleu"}
OPTIONAL |= {"mwxml", "mwparserfromhell", "pyarrow"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(node: ast.AST, inside: bool = False):
    """(dotted name, whether it is inside a function) of every import at run time."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            yield from ((f"{child.module}.{a.name}", inside) for a in child.names)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(child, inside or function)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOOR_OF, f"{room} has no floor yet"
    for name, inside in imports(ast.parse(path.read_text())):
        package, *below = name.split(".")
        if package == "jaxlm":
            other = below[0] if below else "open"  # `import jaxlm`: what a user calls
            assert other == room or FLOOR_OF[other] < FLOOR_OF[room], name
            assert room != "text" or other in (
                "types",
                "signals",
                "files",
                "config",
                "lease",
                "text",
            ), name
        assert inside or package not in OPTIONAL, f"{name} is optional"
        assert room not in ("text", "config") or package not in DEVICES, name


def test_a_wrong_import_is_noticed():
    found = "import torch\nfrom jaxlm import cli\ndef f():\n  from jaxlm.train import x"
    assert list(imports(ast.parse(found))) == [
        ("torch", False),
        ("jaxlm.cli", False),
        ("jaxlm.train.x", True),
    ]


def test_a_program_asks_its_mesh_for_the_platform():
    """Not the process that traces it, which may have no such device."""
    asking = [p.name for p in FILES if "jax.devices()[0].platform" in p.read_text()]
    assert asking == ["mesh.py"]
    assert not [p for p in FILES if "default_backend" in p.read_text()]
