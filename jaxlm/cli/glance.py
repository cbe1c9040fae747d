"""What the files of a directory say before JAX starts: refusals that need no model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from jaxlm.config.checks import shown
from jaxlm.files import is_remote, not_downloaded
from jaxlm.types import UserError

MASK = "[MASK]"
_OTHER_MASKS = re.compile(r"\[mask\]|<mask>|<\|mask\|>|\{mask\}", re.IGNORECASE)
_GPTS = ("gpt", "gpt2", "openai-gpt")
_USES = {
    "bert": "a BERT {}: jaxlm fill fills its blanks",
    "gpt": "a GPT {}: jaxlm generate continues a text",
    "elmo": "an ELMo {}: jaxlm embed gives its vectors",
}


def check_family(directory: str, family: str, lacks: str) -> None:
    """UserError if the files in a directory are of another family, or if it is none."""
    if is_remote(directory):
        return
    here = Path(directory)
    if here.is_file():
        raise UserError(f"{directory} is a file: name its directory")
    if not here.exists() and ":" not in directory:
        hint = f"name a run or model directory{not_downloaded(directory)}"
        raise UserError(f"{directory} does not exist: {hint}")
    found = family_in(here)
    if found and found != family:
        raise UserError(_USES[found].format(lacks))


def family_in(here: Path) -> str:
    """ "bert", "gpt" or "elmo", by the files of a run or model directory; "" if they do
    not tell."""
    if (here / "options.json").is_file():
        return "elmo"
    try:
        config = json.loads((here / "config.json").read_text("utf-8"))
        if "task" in config:
            return ""  # of a task, whatever its family: `load` says which verb fits
        model = config.get("model", {})
        name = model.get("family") or config.get("model_type") or ""
    except (OSError, ValueError, AttributeError):
        return ""
    if name in (*_GPTS, "elmo", ""):
        return "gpt" if name in _GPTS else name
    return "bert"


def with_masks(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts with [MASK] for `<mask>` or `[mask]`; UserError for one without a blank."""
    found = tuple(_OTHER_MASKS.sub(MASK, text) for text in texts)
    for text in found:
        if MASK in text:
            continue
        remedy = "write it where a word is missing"
        if len(found) > 1 and not any(" " in each for each in found):
            remedy = f"put the sentence in quotes, {shown(' '.join(found))}"
        raise UserError(f"no [MASK] in {shown(text)}: {remedy}")
    return found
