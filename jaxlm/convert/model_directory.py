"""A model directory in any layout → a model; a model → files in any format.

    loaded = read_model(directory, place)          config, parameters, tokenizer
    import_model(directory, out, …)                files in any layout → our layout
    export(out, to, model, …)                      a model → files of format `to`

A layout is recognised by its files: `config.json` is Hugging Face's, `options.json` and
`weights.hdf5` are ELMo's, `bert_config.json` and a checkpoint are Google's,
`params_shapes.json` is OpenAI's.

An export appears whole or not at all: a kill leaves the earlier export, and a `.tmp`
beside it that may be deleted.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.config.model import BertConfig, ElmoConfig, ModelConfig
from jaxlm.convert import READABLE, Dtype, Format, elmo, huggingface, tensors
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.gguf import write_gguf
from jaxlm.convert.huggingface import fit_tensors, fit_tokenizer
from jaxlm.convert.onnx import write_onnx
from jaxlm.convert.rules import ModelFile, Place
from jaxlm.convert.sentence import (
    MODULES,
    read_sentence_model,
    usual_sentence_model,
    write_sentence_model,
)
from jaxlm.convert.stablehlo import write_stablehlo
from jaxlm.families import family_of
from jaxlm.families.elmo import with_words
from jaxlm.files import (
    DamagedError,
    copy_tree,
    is_remote,
    listed,
    not_downloaded,
    place,
    read_json,
    read_object,
    remedied,
    sync,
    temporary,
    write_sealed,
)
from jaxlm.models.sentence import SentenceModel
from jaxlm.text.sources import sha256
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.types import UserError, note, without_notes

_DIGESTS = "jaxlm_export.json"


class Loaded(NamedTuple):
    """A model in memory; `params` has only the heads that the files have."""

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer
    unused: int  # entries that the tokenizer's files lack


def is_model(directory: Path) -> bool:
    """Whether a directory holds a model (in any layout) and not a run."""
    path = directory / "config.json"
    if path.is_file():
        return not {"model_type", "architectures"}.isdisjoint(read_json(path))
    openai = directory / tensors.GPT1_SHAPES
    others = elmo.files_of(directory) or tensors.checkpoint_of(directory)
    return openai.is_file() or bool(others)


def open_model(
    directory: Path,
    *,
    pickle: bool = False,
    ignore: tuple[str, ...] = (),
    weights: bool = True,
) -> AbstractContextManager[ModelFile]:
    """The model in a directory, in any layout; for the arguments see `import_model`.

    Its files are compared with their stored digests; those of `weights` are left out
    where no parameter will be read.
    """
    _check(directory, weights)
    return _opened(directory, pickle, ignore)


@contextlib.contextmanager
def _opened(
    directory: Path, pickle: bool = False, ignore: tuple[str, ...] = ()
) -> Iterator[ModelFile]:
    checkpoint, path = tensors.checkpoint_of(directory), directory / "config.json"
    if files := elmo.files_of(directory):
        with elmo.open_elmo(*files) as source:
            yield source
    elif (directory / tensors.GPT1_SHAPES).is_file():
        yield fit_tensors(*tensors.read_numpy(directory), ignore)
    elif checkpoint and not path.is_file():
        yield fit_tensors(*tensors.read_checkpoint(checkpoint), ignore)
    else:
        options = ConfigJson(path, read_json(path))
        with tensors.open_tensors(directory, pickle=pickle) as found:
            yield fit_tensors(options, found, ignore)


def _check(directory: Path, weights: bool) -> None:
    if not directory.is_dir():
        raise UserError(f"no directory {directory}{not_downloaded(directory)}")
    if (directory / "provenance.json").is_file():
        raise UserError(f"{directory} is a run: jaxlm export writes a model directory")
    if not is_model(directory):
        have = sorted(each.name for each in directory.iterdir())[:8]
        move = "; move the files of its 0_… beside modules.json" * (MODULES in have)
        raise UserError(
            f"{directory} is not a model directory: no config.json of a model, no "
            "options.json with weights.hdf5, no bert_config.json with a checkpoint, no "
            f"params_shapes.json; it has {', '.join(have) or 'nothing'}{move}"
        )
    _check_digests(directory, weights)


def read_model(directory: Path, place: Place | None) -> Loaded:
    """The model of a directory, its digests checked, its parameters placed by `place`.

    If `place` is None, parameters are not read.
    """
    _check(directory, weights=place is not None)
    ours = (directory / _DIGESTS).is_file()  # `import` has said what there is to say
    with without_notes() if ours else contextlib.nullcontext():
        with _opened(directory) as source:
            config = source.config
            params = source.params(place) if place else {}
        if isinstance(config, ElmoConfig):
            return Loaded(config, params, elmo.words_of(directory), 0)
        found = load_tokenizer(directory)
        tokenizer = fit_tokenizer(found, config, directory)
    return Loaded(config, params, tokenizer, config.vocab_size - found.vocab_size)


def import_model(
    directory: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    pickle: bool = False,
    ignore: tuple[str, ...] = (),
    dtype: Dtype = "float32",
    words: str = "",
) -> tuple[ModelFile, dict[str, str]]:
    """Write the model of a directory in our layout; returns (model, name → SHA-256).

    Args:
        directory: in any layout.
        out: an earlier export there is replaced as a whole.
        tokenizer: where it is, if not in `directory`.
        pickle: whether pickled weights may be read.
        ignore: regular expressions of tensors to leave out.
        dtype: of the written tensors.
        words: how an ELMo's words are cut; "": as its vocabulary says.
    """
    files, sentence = tokenizer or directory, None
    with open_model(directory, pickle=pickle, ignore=ignore) as source:
        config = source.config
        if isinstance(config, ElmoConfig):
            known = elmo.words_of(files, words)
        else:
            fitted = fit_tokenizer(load_tokenizer(files), config, directory)
            known = with_words(fitted, words)
            sentence = read_sentence_model(directory, config, pickle=pickle)
            if tokenizer:
                _compare_with_own(directory, known)
        if sentence:
            note(f"sentences: {sentence}")
        origin = {"imported": directory.resolve().name}
        how: Any = {"dtype": dtype, "origin": origin, "sentence": sentence}
        return source, export_model(out, source, known, **how)


def _compare_with_own(directory: Path, tokenizer: Tokenizer) -> None:
    """Note if the directory's own tokenizer differs from the given one."""
    with contextlib.suppress(UserError):
        with without_notes():
            own = load_tokenizer(directory)
        if own.tokens != tokenizer.tokens[: own.vocab_size]:
            note(
                f"--tokenizer has another vocabulary than {directory}: sha256 "
                f"{tokenizer.sha256[:12]}…, {own.sha256[:12]}… there"
            )


def from_params(config: ModelConfig, params: Any) -> ModelFile:
    """A model's parameters, in memory or on disk, as the tensors of its files."""
    if isinstance(config, ElmoConfig):
        return elmo.from_params(config, params)
    return huggingface.from_params(config, params)


def export_model(
    out: Path,
    source: ModelFile,
    tokenizer: Tokenizer,
    *,
    dtype: Dtype = "float32",
    origin: dict[str, Any],
    sentence: SentenceModel | None = None,
) -> dict[str, str]:
    """Write a model in our layout, with its sentence modules; see `export`."""
    with atomic(out) as beside:
        if isinstance(source.config, ElmoConfig):
            if dtype != "float32":
                raise UserError(f"dtype {dtype}: an ELMo's file is float32")
            elmo.write_elmo(beside, source, tokenizer)
        else:
            huggingface.write_model(beside, source, tokenizer, dtype, origin)
        if sentence:
            write_sentence_model(beside, sentence)
        return write_digests(beside, origin)


def export(
    out: Path,
    to: Format,
    model: Any,
    *,
    dtype: Dtype = "float32",
    origin: dict[str, Any],
) -> dict[str, str]:
    """Write a model in any format, whole or not at all; returns file → SHA-256.

    `out` is a directory, or a file for gguf and stablehlo. `model` has `config`,
    `params`, `tokenizer` and `sentence`; its parameters may stay on disk for formats
    that jaxlm reads. `origin` is stored with it.
    """
    config, params = model.config, model.params
    if to in ("onnx", "stablehlo") and dtype != "float32":
        raise UserError(f"dtype {dtype}: --to {to} writes float32")
    usual = "elmo" if isinstance(config, ElmoConfig) else "hf"
    if to != usual and "elmo" in (to, usual):
        article = family_of(config).article
        raise UserError(f"{article} has no form --to {to}: pass --to {usual}")
    sentence = model.sentence if to in ("hf", "sentence") else None
    if to == "sentence":
        if not (sentence or isinstance(config, BertConfig)):
            raise UserError("sentence-transformers reads a BERT's encoder: use --to hf")
        sentence = sentence or usual_sentence_model(config)
        params = {k: v for k, v in params.items() if k not in ("mlm", "nsp")}
    if to in READABLE:
        how: Any = {"dtype": dtype, "origin": origin, "sentence": sentence}
        return export_model(out, from_params(config, params), model.tokenizer, **how)
    with atomic(out, file=to != "onnx") as beside:
        if to == "onnx":
            write_onnx(beside, model)
            return write_digests(beside, origin)
        if to == "gguf":
            write_gguf(beside, model, dtype, origin)
        else:
            write_stablehlo(beside, config, params)
        return {out.name: sha256(beside)}


@contextlib.contextmanager
def export_path(out: str) -> Iterator[Path]:
    """A local path to export to; for `gs://`, what is there is uploaded at the end.

    The digests are uploaded last: half of an upload does not fit them.
    """
    if not is_remote(out):
        yield Path(out)
        return
    there, old = place(out), _replaceable(out)
    with temporary(Path(tempfile.mkdtemp(prefix="jaxlm-"))) as scratch:
        yield scratch / there.name
        copy_tree(scratch, there.parent, last=_DIGESTS)
        for each in old:
            if not (scratch / there.name / each.name).exists():
                each.rmtree()


def _replaceable(out: str | Path) -> list[Any]:
    """What a directory has; UserError if it is not an earlier export."""
    old = [each for each in listed(out) if each != place(out)]
    if old and not (place(out) / _DIGESTS).exists():
        raise UserError(
            f"{out} holds other files and is not an export: name another --out"
        )
    return old


@contextlib.contextmanager
def atomic(out: Path, *, file: bool = False) -> Iterator[Path]:
    """A new directory or file path beside `out`, which replaces `out` at the end.

    UserError if `out` is a directory but not an earlier export. Two directories are
    exchanged in one step if the system can do that.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and out.is_dir() == file:
        kinds = ("directory", "file") if file else ("file", "directory")
        raise UserError("{} is a {}: name a {}".format(out, *kinds))
    if not file:
        _replaceable(out)
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.touch() if file else beside.mkdir()
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.filename}: {error.strerror}"
        ) from None
    with temporary(beside):
        yield beside
        for each in [*beside.rglob("*"), beside]:
            sync(each)
        if out.is_dir():
            _exchange(beside, out)
        else:
            beside.replace(out)
        sync(out.parent)


def _exchange(new: Path, old: Path) -> None:
    exchange, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD of <linux/fs.h>, <fcntl.h>
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "renameat2"):
        paths = here, os.fsencode(new), here, os.fsencode(old)
        if libc.renameat2(*paths, ctypes.c_uint(exchange)) == 0:
            return
    aside = old.with_name(f"{old.name}.{os.getpid()}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def write_digests(directory: Path, origin: dict[str, Any]) -> dict[str, str]:
    """Store the SHA-256 of all files with the origin; returns name → SHA-256."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(directory)): sha256(path) for path in files}
    content = {"format": 1, "origin": origin, "sha256": digests}
    write_sealed(directory / _DIGESTS, content, "seal")
    return digests


def _check_digests(directory: Path, weights: bool) -> None:
    """Compare files with their stored digests, if there are any; UserError."""
    stored = directory / _DIGESTS
    if not stored.is_file():
        return
    with remedied("delete it to go on without digests"):
        content = read_object(stored, "seal")
        kinds = {name: type(each) for name, each in content.items()}
        if kinds != {"format": int, "origin": dict, "sha256": dict}:
            raise DamagedError(f"{stored} is damaged")
    for name, digest in content["sha256"].items():
        path = directory / name
        if name in (tensors.WEIGHTS, elmo.WEIGHTS) and not weights:
            continue
        if os.path.isabs(name) or ".." in path.parts[len(directory.parts) :]:
            raise UserError(f"{stored} names {name}, which is not beside it")
        found, how = "", "is lost"
        if path.is_file():
            found = sha256(path)
            how = f"is not as it was written (SHA-256 {found[:12]}…)"
        if found != digest and name == "README.md":  # nothing is read from it
            note(f"{path} {how}")
        elif found != digest:
            had = f"{_DIGESTS} has {str(digest)[:12]}…"
            way = f"if you changed it on purpose, delete {stored}"
            raise UserError(f"{path} {how}: {had}; {way}")
