"""`jaxlm help`: the guides in `jaxlm/guides`, shown on the terminal."""

import shutil
import textwrap
from pathlib import Path

from jaxlm.config.checks import instead
from jaxlm.types import UserError

GUIDES = Path(__file__).resolve().parent.parent / "guides"


def guides() -> dict[str, Path]:
    """Topic → file of every guide that ships."""
    return {path.stem: path for path in sorted(GUIDES.glob("*.md"))}


def run_help(argv: list[str]) -> int:
    """The verb `help`: a guide, the flags of a verb, or without a word the topics."""
    from jaxlm.cli import VERBS, main

    topics = guides()
    match argv:
        case [topic] if topic in topics:
            _show(topics[topic].read_text("utf-8"))
        case [verb, *_] if verb in VERBS:
            return main([*argv, "--help"])
        case [name, *_]:
            text = {topic: path.read_text("utf-8") for topic, path in topics.items()}
            found = [topic for topic in text if name.lower() in text[topic].lower()]
            hint = f"the word is in {', '.join(found)}"
            hint = hint if found else instead(name, [*topics, *VERBS])
            raise UserError(f"no guide or verb {name!r}: {hint}")
        case []:
            print("jaxlm help TOPIC shows a guide, jaxlm help VERB the flags:\n")
            for name, path in topics.items():
                print(wrapped(f"  {name:<16} {_title(path)}", 19))
            print(wrapped(f"\nThe verbs: {', '.join(VERBS)}."))
    return 0


def wrapped(text: str, indent: int = 0) -> str:
    """Text in lines as wide as the terminal, 100 columns at most."""
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent=" " * indent, break_on_hyphens=False
        )
        for line in text.splitlines()
    )


def _title(path: Path) -> str:
    """What a guide is about: its heading."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def _show(text: str) -> None:
    """Render Markdown; into a pipe, it goes unchanged."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(theme=Theme({"markdown.code": "bold cyan"}))
    if console.is_terminal:
        code, width = "ansi_dark", min(console.width, 100)
        console.print(Markdown(text, code_theme=code, hyperlinks=False), width=width)
    else:
        print(text, end="")
