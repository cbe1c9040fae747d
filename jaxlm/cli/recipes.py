"""`jaxlm recipes`: what can be trained, from the recipes' docstrings and configs."""

import ast
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from jaxlm.cli.arguments import parse
from jaxlm.config import load_config
from jaxlm.config.files import recipes
from jaxlm.types import UserError

_COLUMN = " " * 24


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """What can be trained: each recipe with its size, its cost and its hardware."""

    only: str = ""
    """A part of a name: bert, tiny, gpt, …"""


def run_recipes(argv: list[str]) -> int:
    """The verb `recipes`."""
    args = parse(Recipes, argv)
    named = {name: path for name, path in recipes().items() if args.only in name}
    if not named:
        raise UserError(f"no recipe has {args.only!r} in its name: see jaxlm recipes")
    configs = {name: load_config(name) for name in named}
    # A task's parameters are those of --init.
    sizes = {n: c.model.num_parameters * (not c.finetunes) for n, c in configs.items()}
    groups = {"pretrain": False, "finetune": True}
    for verb, task in groups.items():
        here = [name for name, config in configs.items() if config.finetunes == task]
        here.sort(key=lambda name: (configs[name].model.family, sizes[name], name))
        if here:
            print(f"jaxlm {verb} RECIPE …")
        for name in here:
            what, cost = _said(named[name])
            size = "" if task else f"{_millions(sizes[name])} parameters; "
            print(_wrapped(f"  {name:<22}{what}"), _wrapped(f"{size}{cost}"), sep="\n")
    return 0


def _wrapped(text: str) -> str:
    """A text in lines of the terminal's width, beside the column of names."""
    width = max(60, min(100, shutil.get_terminal_size().columns))
    first = "" if text.startswith(" ") else _COLUMN
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=_COLUMN)


def _said(path: Path) -> tuple[str, str]:
    """(the first line of a recipe's docstring, what it costs and on what)."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    cost = re.search(r"^Cost: (.*?)(?=\n\n|\n[A-Z]\w+: |\Z)", text, re.M | re.S)
    return text.partition("\n")[0], " ".join(cost[1].split()) if cost else ""


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}M" if count < 10e6 else f"{count / 1e6:,.0f}M"
