"""`--init DIR`: the parameters that a run starts from, and whether they fit."""

import itertools
import re

from jaxlm.checkpoints import RunFiles, restore_params
from jaxlm.config import ModelConfig
from jaxlm.convert.model_directory import is_model, read_model
from jaxlm.files import local, not_downloaded, place
from jaxlm.open.directory import model_of
from jaxlm.tasks.finetuned import best_seed
from jaxlm.tasks.model import OWN
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.state import Pretrained
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError

_UNUSED = re.compile(r"\[unused\d+\]").fullmatch


def pretrained(directory: str) -> Pretrained:
    """The parameters of `--init` without a task's; those of a run stay on disk."""
    check_init(directory)
    here, files = local(directory), None
    if is_model(here):
        read = read_model(here, lambda _, leaf: leaf)
        return Pretrained(directory, read.params)
    run = str(path := best_seed(directory))
    if (path / "config.json").is_file():
        digest = load_tokenizer(local(path / "tokenizer")).sha256
        files = RunFiles(read_config(path), {"tokenizer_sha256": digest})
    found = restore_params(run, stored=True, run=files)
    params = {name: each for name, each in found.state.items() if name not in OWN}
    return Pretrained(f"{run} at step {found.step}", params)


def check_init(directory: str) -> None:
    """Refuse a directory that does not exist."""
    if not place(directory).is_dir():
        hint = not_downloaded(directory)
        raise UserError(f"--init {directory}: there is no such directory{hint}")


def other_settings(directory: str, model: ModelConfig) -> list[str]:
    """A note if settings that no shape shows differ from those of `--init`."""
    theirs, _ = model_of(directory)
    rope = all(getattr(x, "positions", "") == "rope" for x in (theirs, model))
    windows = [getattr(x, "window", 0) > 0 for x in (theirs, model)]
    names = ["activation", "norm_eps", *["rope_base"] * rope]
    names += ["window"] * any(windows) + ["global_every"] * all(windows)
    names += ["local_rope_base"] * (all(windows) and rope)
    pairs = [[getattr(x, name, None) for x in (theirs, model)] for name in names]
    others = [
        f"model.{name} = {there} there and {here} here"
        for name, (there, here) in zip(names, pairs, strict=True)
        if there != here
    ]
    return [f"--init {directory} has {', '.join(others)}"] if others else []


def check_vocabulary(directory: str, tokenizer: Tokenizer, *, other: bool) -> list[str]:
    """Compare the vocabulary of `--init` with that of a corpus: notes on differences.

    An entry that is another word is a UserError, unless `other` allows it. `[unusedN]`
    fits any word: words of a domain may take its place.
    """
    config, known = model_of(directory)
    if not config.vocab_size or known.sha256 == tokenizer.sha256:
        return []  # an ELMo without a softmax reads characters alone
    pairs = list(itertools.zip_longest(known.tokens, tokenizer.tokens))
    others = [
        f"{i}, {theirs!r} there and {mine!r} here"
        for i, (theirs, mine) in enumerate(pairs)
        if theirs != mine and not any(map(_UNUSED, (str(theirs), str(mine))))
    ]
    digests = f"{known.sha256[:12]}…, the corpus {tokenizer.sha256[:12]}…"
    said = f"--init {directory} has tokenizer sha256 {digests}"
    if not others:
        return [f"{said}: the words are equal, their [unused] places or cuts are not"]
    count = f"{len(others):,} of {len(pairs):,} entries are other words"
    said += f": {count}, the first is entry {others[0]}"
    if other:
        return [said]
    model = is_model(local(directory))
    files = directory if model else f"{best_seed(directory)}/tokenizer"
    way = "--other_vocabulary to keep the rows of the table under the new words"
    raise UserError(
        f"{said}; prepare the corpus with --tokenizer {files}, or pass {way}"
    )
