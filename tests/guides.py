"""The commands that README.md and the guides show."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "jaxlm" / "guides").glob("*.md"))]
PAGES += [ROOT / "tools" / "launch" / "README.md"]


class Command(NamedTuple):
    """One command that a page shows."""

    page: str
    argv: list[str]  # from the verb on


def shown() -> list[Command]:
    """Every `jaxlm VERB …` in a code block, in order."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4}|```\n)(.*jaxlm .*)", text, re.MULTILINE):
            for part in re.split(r"[;|]", line):
                words = shlex.split(part.split(" > ")[0], comments=True)
                if words[:1] == ["jaxlm"] and "VERB" not in part:
                    found.append(Command(str(page.relative_to(ROOT)), words[1:]))
    return found
