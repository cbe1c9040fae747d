"""`jaxlm VERB --help`: how a verb is called, an example, and its flags.

Nothing here imports JAX, so that help is instant.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from jaxlm.cli.flags import Flag
from jaxlm.cli.help import guides
from jaxlm.config.idle import foreign, idle

_MANY = 20  # flags, of which `--help` shows the usual ones
# The flags that people use, of verbs that have many; of others, those to show first.
_USUAL = {
    "prepare": "text corpus tokenizer holdout sentences errors field spans lexicon "
    "processes smoothing model.vocab_size text.language text.lowercase text.chinese",
    "pretrain": "text corpus workdir holdout init fork seed steps stop batch length "
    "accumulate save_every eval_every precision optim.name optim.peak optim.warmup "
    "model.vocab_size mesh.fsdp",
    "finetune": "data dev transfer workdir init seeds seed batch length eval_every "
    "optim.peak task.text task.pair task.label task.metric task.epochs "
    "task.patience task.layer_decay task.freeze task.pooling",
    "plan": "topology advice json steps batch length accumulate precision remat "
    "attention optim.name model.num_layers model.d_model mesh.data mesh.fsdp "
    "mesh.tensor",
    "evaluate": "text data corpus transfer rows json batch length stride",
    "generate": "prompt max_tokens temperature top_k top_p samples seed beams json",
    "zeroshot": "protocol data prompt harness out limit seeds step",
}
_COLUMN = 24  # where the text beside a flag begins


def print_help(
    kind: Any, flags: Sequence[Flag], verb: str, config: Any, *, every: bool
) -> None:
    """Print the flags of a verb; unless `every`, those that people use.

    With a `config` of the user's choice, flags that it would refuse are left out.
    """
    refused = {**foreign(config), **idle(config)} if config else {}
    shown = [flag for flag in flags if not _is_refused(flag, refused)]
    usual = _USUAL.get(verb, "").split()
    fewer = bool(usual) and not every and len(shown) > _MANY
    if fewer:
        shown = [flag for flag in shown if flag.name in usual or flag.required]
    if len(shown) <= _MANY or fewer:
        shown.sort(key=lambda flag: [*usual, flag.name].index(flag.name))
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    for text in (usage_of(verb, flags), " ".join((kind.__doc__ or "").split())):
        print(textwrap.fill(text, width), end="\n\n")
    if example := example_of(verb):
        print(f"  {example}\n")
    recipe = takes_config(flags)
    needed = [(flag.label, flag.what) for flag in shown if flag.required]
    if recipe:
        needed.insert(0, ("CONFIG", "A recipe's name (see jaxlm recipes) or file."))
    others = [(flag.label, _with_default(flag)) for flag in shown if not flag.required]
    if needed:
        print(
            "needed:", *(_beside(*each, width) for each in needed), sep="\n", end="\n\n"
        )
    print("flags:", *(_beside(*each, width) for each in others), sep="\n")
    notes = [f"jaxlm {verb} --help-all: all {len(flags)} flags."] * fewer
    if recipe and not config:
        notes.append(f"jaxlm {verb} CONFIG --help: those of a recipe, its values.")
    elif refused:
        notes.append("Flags that would change nothing with this config are left out.")
    if notes:
        print("", *notes, sep="\n")


def takes_config(flags: Iterable[Flag]) -> bool:
    """Whether these are flags of a verb whose first word is a recipe."""
    return any(flag.name == "model.vocab_size" for flag in flags)


def usage_of(verb: str, flags: Sequence[Flag]) -> str:
    """How a verb is called."""
    words = ["CONFIG"] * takes_config(flags)
    words += [f.label + " …" * f.several for f in flags if f.positional]
    words += [f.label for f in flags if f.required and not f.positional]
    return " ".join(["usage: jaxlm", verb, *words, "[flags]"])


def example_of(verb: str) -> str:
    """The shortest command of a verb in the guides."""
    found = []
    for path in guides().values():
        shown = rf"^    (jaxlm {verb} [ -~]*)$"
        found += re.findall(shown, path.read_text("utf-8"), re.MULTILINE)
    return min((" ".join(each.split()) for each in found), key=len, default="")


def _with_default(flag: Flag) -> str:
    value = flag.default
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    elif isinstance(value, bool):
        value = str(value).lower()
    return flag.what if value in ("", None) else f"{flag.what} [{value}]"


def _beside(label: str, said: str, width: int) -> str:
    """A flag and the lines of text beside it, or below it if it is long."""
    label, blank = f"  {label}", " " * _COLUMN
    text = textwrap.fill(said, width, initial_indent=blank, subsequent_indent=blank)
    if len(label) <= _COLUMN - 2:
        return label + text[len(label) :]
    return f"{label}\n{text}"


def _is_refused(flag: Flag, refused: dict[str, str]) -> bool:
    parts = flag.name.split(".")
    return any(".".join(parts[: n + 1]) in refused for n in range(len(parts)))
