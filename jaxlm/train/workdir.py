"""A run directory: its config and provenance, compared with those of a resumed run.

.lock             held by the process that trains here
config.json       the resolved configuration; compared when the run goes on
provenance.json   one record for each invocation: format, versions, commit, devices
tokenizer/        copied from the corpus or model
checkpoints/  metrics.jsonl  samples.jsonl  tensorboard/     written by `loop.py`
"""

import contextlib
import dataclasses
import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxlm.checkpoints import Checkpoints, RunFiles, UnsoundError
from jaxlm.checkpoints.manifest import FORMAT, check_format
from jaxlm.config import FinetuneConfig, RunConfig
from jaxlm.config.files import from_dict
from jaxlm.files import (
    DamagedError,
    absolute,
    check_own,
    is_remote,
    listed,
    locked,
    not_downloaded,
    place,
    read_json,
    read_object,
    remedied,
    seal,
    unseal,
    write_file,
    write_json,
    write_sealed,
    written,
)
from jaxlm.lease import leased
from jaxlm.text.corpus import Corpus, files_below, read_manifest
from jaxlm.types import UserError
from jaxlm.xla import xla_options

_REMEDY = "the command that trained the run writes it anew"
_PACKAGES = "jaxlm jax jaxlib flax optax orbax-checkpoint grain tokenizers numpy"


@contextlib.contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Lock a run directory, see `files.locked` and `lease.leased`."""
    check_own("--workdir", str(workdir))
    if jax.process_index() != 0:
        yield
        return
    if is_remote(workdir):
        with leased(str(workdir)):
            yield
        return
    path = Path(workdir) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from error
    with locked(path):
        yield


def open_workdir(
    workdir: str | os.PathLike,
    config: RunConfig,
    corpus: Corpus,
    argv: list[str],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Make or check the directory of a pretraining run; see `claim_workdir`.

    `facts` are added to its provenance.
    """
    size = corpus.manifest.vocab_size
    if size != config.model.vocab_size:
        sizes = f"a vocabulary of {size}, model.vocab_size is {config.model.vocab_size}"
        remedy = f"pass --model.vocab_size {size}, or prepare it with this config"
        raise UserError(f"corpus {corpus.directory} has {sizes}: {remedy}")
    data = {
        "corpus": absolute(corpus.directory),
        **corpus.digests,
        **(facts or {}),
    }

    if not (is_remote(workdir) or is_remote(corpus.directory)):
        data["corpus_from_here"] = os.path.relpath(corpus.directory, workdir)

    def save_tokenizer(to: Path) -> None:
        for name, path in files_below(corpus.files):
            if name.startswith("tokenizer/"):
                write_file(to / path.name, path.read_bytes())

    claim_workdir(workdir, config, data, argv, save_tokenizer)


def claim_workdir(
    workdir: str | os.PathLike,
    config: RunConfig,
    data: Mapping[str, Any],
    argv: list[str],
    save_tokenizer: Callable[[Path], None],
) -> None:
    """Make a run directory, or check that an existing one belongs to this run.

    `data` describes the training data, for the provenance; a value named `…_sha256`
    must not have changed. `save_tokenizer` writes the tokenizer into a directory.
    """
    here = place(workdir)
    options = {"xla_options": xla_options(config, training=True)}
    record = {**_provenance(argv), **options, **data}
    begun = has_begun(here)
    if begun:
        _compare(here, config, record)
    # The loop reports an unsound checkpoint, or falls back to another one.
    with contextlib.suppress(UnsoundError):
        Checkpoints(workdir, run=RunFiles(config, data)).stored()
    if jax.process_index() != 0:
        return
    if not begun:
        here.mkdir(parents=True, exist_ok=True)
        (here / "tokenizer").rmtree(missing_ok=True)
        with written(here / "tokenizer") as to:
            save_tokenizer(to)
    records = [*map(seal, provenance(here)), seal(record)]
    write_sealed(here / "config.json", dataclasses.asdict(config))
    write_json(here / "provenance.json", records)


def has_begun(workdir: str | os.PathLike) -> bool:
    """Whether a run has trained here: it has a config, and a checkpoint or a metric.

    A command that failed before its first step claims nothing.
    """
    here = place(workdir)
    metrics = here / "metrics.jsonl"
    logged = metrics.is_file() and metrics.stat().length > 0
    trained = logged or bool(listed(here / "checkpoints"))
    return trained and (here / "config.json").is_file()


def _run_near(directory: str | os.PathLike) -> str:
    """ "; did you mean …?" if a run is above or in a local directory."""
    here = Path(directory)
    near = [] if is_remote(directory) else [*here.parents[:2], *sorted(here.glob("*"))]
    runs = [str(each) for each in near if (each / "config.json").is_file()]
    return f"; did you mean {' or '.join(runs[:3])}?" if runs else ""


def read_config(workdir: str | os.PathLike) -> RunConfig:
    """The configuration of a run directory; UserError if it has another format."""
    path = place(workdir) / "config.json"
    if not path.is_file():
        if (path.parent / "checkpoints").is_dir():
            raise UserError(f"{workdir} has no config.json; {_REMEDY}")
        if path.parent.is_file():
            raise UserError(f"{workdir} is a file: name the directory of a run")
        if not path.parent.exists():
            hint = f"name the directory of a run{not_downloaded(workdir)}"
            raise UserError(f"{workdir} does not exist: {hint}")
        what = "is not a run directory: it has no config.json"
        raise UserError(f"{workdir} {what}{_run_near(workdir)}")
    for record in provenance(workdir)[-1:]:
        check_format(record.get("format", 1), str(workdir))
    with remedied(f"delete it; {_REMEDY}"):
        content = read_object(path)
        if content.keys() & {"model_type", "architectures"}:
            raise UserError(f"{workdir} is a model directory, and no run")
        try:
            return from_dict(content)
        except UserError as error:
            raise DamagedError(f"{path}: {error}") from None


def corpus_of(workdir: str | os.PathLike) -> str:
    """The path of the corpus that a run used last; WORKDIR/corpus if it used none.

    A run may have been moved, with its corpus or without it. The digest of the corpus
    tells whether its absolute or its relative path is still right.
    """
    newest = (provenance(workdir) or [{}])[-1]
    path = newest.get("corpus", str(place(workdir) / "corpus"))
    moved = path
    if "corpus_from_here" in newest:
        moved = os.path.normpath(Path(workdir, newest["corpus_from_here"]))
    for each in (path, moved):
        with contextlib.suppress(UserError):
            if read_manifest(each).sha256 == newest.get("corpus_sha256"):
                return each
    return path


def _compare(here: epath.Path, config: RunConfig, record: dict[str, Any]) -> None:
    before = read_config(here)
    if type(before) is not type(config):
        verb = "finetune" if isinstance(before, FinetuneConfig) else "pretrain"
        raise UserError(f"{here} is a run of jaxlm {verb}: use another --workdir")
    last = (provenance(here) or [record])[-1]
    if lines := RunFiles(config, record).differences(before, last):
        head = f"{here} belongs to another run; use another --workdir, or:"
        raise UserError("\n  ".join([head, *lines]))


def provenance(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """A record of each invocation, the newest last; [] if the file is missing."""
    path = place(workdir) / "provenance.json"
    if not path.is_file():
        return []
    with remedied(f"delete it; {_REMEDY}"):
        return [unseal(record, path) for record in read_json(path, list)]


def written_provenance(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """A record of each invocation, the newest last; UserError if there is none."""
    if records := provenance(workdir):
        return records
    raise UserError(f"{workdir} has no provenance.json; {_REMEDY}")


def code() -> dict[str, str]:
    """What computes on this host: the version of JAX and a digest of jaxlm's source."""
    here, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        total.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes())
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"jaxlm source sha256": total.hexdigest()[:16], **versions}


def _provenance(argv: list[str]) -> dict[str, Any]:
    # The commit of the checkout that jaxlm runs from; empty if it was installed.
    root, commit = Path(__file__).resolve().parents[2], ""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True)
        commit = done.stdout.strip()
    return {
        "format": FORMAT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "argv": argv,
        "commit": commit,
        "versions": {name: version(name) for name in _PACKAGES.split()},
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "devices": [f"{d.device_kind} {d.id}" for d in jax.devices()],
        "hosts": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)),
    }
