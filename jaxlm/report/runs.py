"""A run directory → all that a report shows of it; the run may still be training."""

import contextlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxlm.checkpoints import Checkpoints, RunFiles, state_sha256
from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.config.files import recipes
from jaxlm.families import family_of
from jaxlm.files import place
from jaxlm.metrics import Figure
from jaxlm.tasks.objective import FIGURES
from jaxlm.train.log_files import read_metrics
from jaxlm.train.workdir import provenance, read_config
from jaxlm.types import UserError

Record = dict[str, Any]
_LARGEST = 1 << 20  # bytes of a page that a report embeds


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run directory holds, apart from weights."""

    path: str
    name: str  # different from those of the other runs
    config: RunConfig
    recipe: str  # that it began from; "" if that is not a shipped one
    records: list[Record]  # of metrics.jsonl
    torn: int  # lines of it
    samples: list[Record]
    provenance: list[Record]
    digests: dict[int, str]  # step → state sha256
    pages: dict[str, str]  # name → HTML, of probes; "" if it is large

    @cached_property
    def steps(self) -> np.ndarray:
        """The step of each record."""
        return np.array([record["step"] for record in self.records], np.float64)

    @property
    def kind(self) -> str:
        """Of what it is a run: runs of one kind have figures in common."""
        if isinstance(self.config, FinetuneConfig):
            return f"a {self.config.task.kind} task"
        return family_of(self.config.model).article

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What its evaluations declare."""
        if isinstance(self.config, FinetuneConfig):
            return FIGURES
        return family_of(self.config.model).figures(self.config)

    @property
    def began(self) -> RunConfig | None:
        """The configuration of its recipe."""
        return load_config(self.recipe) if self.recipe else None


def read_runs(directories: tuple[str, ...]) -> list[RunRecord]:
    """The runs in directories; that of a task with several seeds has a run for each."""
    paths = [path for each in directories for path in _runs_in(each)]
    names = {path: str(path).rstrip("/").rpartition("/")[2] for path in paths}
    if len({*names.values()}) < len(paths):
        names = {path: str(path) for path in paths}
    runs = [_read(path, name) for path, name in names.items()]
    kinds = {each.kind: each.name for each in runs}
    if len(kinds) > 1:
        said = " and ".join(f"{name} of {kind}" for kind, name in kinds.items())
        raise UserError(f"{said} have no figures in common: make a report of each")
    return runs


def _runs_in(directory: str) -> list[Any]:
    path = place(directory)
    if not path.is_dir():
        raise UserError(f"{directory} is not a directory: name that of a run")
    if (path / "metrics.jsonl").is_file() and (path / "config.json").is_file():
        return [path]
    if seeds := sorted(path.glob("seed-*/metrics.jsonl")):
        return [each.parent for each in seeds]
    why = "it has no metrics.jsonl"
    if (path / "manifest.json").is_file():
        why = "it is a corpus: jaxlm show describes it"
    elif (path / "model.safetensors").is_file() or (path / "weights.hdf5").is_file():
        why = "it is a model, whose training is not recorded: jaxlm show describes it"
    elif (path / "config.json").is_file():
        why = "it has no metrics.jsonl yet: the first line comes with its first step"
    raise UserError(f"no report of {directory}: {why}")


def _read(path: Any, name: str) -> RunRecord:
    records, torn = read_metrics(path / "metrics.jsonl")
    if not records:
        raise UserError(f"no report of {path}: its metrics.jsonl has no whole line yet")
    config = read_config(path)
    origins = provenance(path)
    words = origins[0].get("argv", []) if origins else []
    recipe = words[1] if len(words) > 1 and words[1] in recipes() else ""
    samples, _ = read_metrics(path / "samples.jsonl")
    digests = {}
    checkpoints = Checkpoints(path, run=RunFiles(config, {}))
    for step in checkpoints.steps():
        # A run that trains may delete a checkpoint meanwhile.
        with contextlib.suppress(UserError, OSError, json.JSONDecodeError):
            if stored := checkpoints.stored(step):
                digests[step] = state_sha256(stored.digests)
    pages = {}
    for page in sorted(path.glob("*.html")):
        content = page.read_text() if page.stat().length <= _LARGEST else ""
        if "<meta name=jaxlm content=report>" not in content:
            pages[page.name] = content
    found = records, torn, samples, origins, digests, pages
    return RunRecord(str(path), name, config, recipe, *found)
