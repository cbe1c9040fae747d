"""RUN@STEP → a new run from a kept checkpoint of another one, with named changes.

A fork begins with the whole state of its parent at that step and reads the batches that
the parent would have read, so without changes both end in the same bits. It may change
what only later steps depend on. It may not change what the state was computed with: the
model, the vocabulary, the optimiser's moments and the rows of past steps.
Next: `loop.py`, which takes the state; `workdir.py` keeps the record of the changes.
"""

import dataclasses
import fnmatch
from typing import Any

from jaxlm.checkpoints import Checkpoints, Restored, RunFiles, state_sha256
from jaxlm.config import RunConfig
from jaxlm.config.files import changes
from jaxlm.files import absolute
from jaxlm.text.corpus import Corpus
from jaxlm.train.state import LARGEST
from jaxlm.train.workdir import has_begun, provenance, read_config
from jaxlm.types import UserError

# Fields that a fork may change, and a resumed run may not.
_CHANGES = (
    "optim.peak optim.warmup optim.decay optim.cooldown optim.weight_decay optim.clip "
    "optim.eps steps skip* seed dropout_bits accumulate phases.*.until "
    "phases.*.accumulate"
)


def fork_of(text: str) -> tuple[str, int]:
    """(run directory, step) of RUN@STEP; a local directory becomes absolute."""
    run, _, step = text.rpartition("@")
    if not (run and step.isdecimal()):
        raise UserError(f"--fork {text} is not RUN@STEP; {_kept(text)}")
    return absolute(run), int(step)


def _kept(run: str) -> str:
    steps = ", ".join(map(str, Checkpoints(run).steps()))
    return f"{run} keeps the steps {steps}" if steps else f"{run} has no checkpoint"


def parent_config(fork: str, workdir: str) -> RunConfig:
    """The config that a fork's flags change: the parent's, or its own if it has begun.

    A fork that has begun no longer needs its parent.
    """
    run, _ = fork_of(fork)
    config = read_config(workdir if has_begun(workdir) else run)
    if config.finetunes:
        raise UserError(f"{run} is a run of jaxlm finetune, which has no forks")
    return dataclasses.replace(config, stop=0)


def forked(config: RunConfig, parent: RunConfig) -> RunConfig:
    """The config with the parent's absolute path, and with the parent's skips too."""
    run, step = fork_of(config.fork)
    skip = tuple(dict.fromkeys((*parent.skip, *config.skip)))
    return dataclasses.replace(config, fork=f"{run}@{step}", skip=skip)


def fork_record(config: RunConfig, corpus: Corpus) -> dict[str, Any]:
    """Parent, step, state digest and changes, for the provenance.

    UserError if the step is not kept or a change is refused.
    """
    run, step = fork_of(config.fork)
    parent, record = read_config(run), (provenance(run) or [{}])[-1]
    checkpoints = Checkpoints(run, run=RunFiles(parent, record))
    if step not in checkpoints.steps():
        raise UserError(f"--fork {config.fork}: there is no such step; {_kept(run)}")
    changed = changes(parent, dataclasses.replace(config, fork=parent.fork))
    if config.steps <= step:
        raise UserError(f"--steps {config.steps}: step {step} has nothing to train")
    free = _CHANGES.split()
    fixed = [k for k in changed if not any(fnmatch.fnmatch(k, each) for each in free)]
    if record.get("tokenizer_sha256") != corpus.manifest.tokenizer_sha256:
        fixed.append("the vocabulary")
    if _past_ends(parent, step) != _past_ends(config, step):
        fixed.append("phases before its first step")
    if fixed:
        named = [
            f"{k} ({changed[k][0]} → {changed[k][1]})" if k in changed else k
            for k in fixed
        ]
        may = f"only {_CHANGES} and what a resumed run may"
        way = f"--init {run} takes the parameters alone"
        raise UserError(
            f"a fork of {run} cannot change {', '.join(named)}, {may}; {way}"
        )
    done = parent.batch_number(step)
    for each in set(config.skip) - set(parent.skip):
        if int(each.partition(":")[0]) < done:
            after = f"comes after batch {done - 1}"
            raise UserError(f"--skip {each}: step {step} of {run} {after}")
        for mistake in config.idle_skip(each):
            raise UserError(mistake)
    if record.get("corpus_sha256") != corpus.sha256:
        changed["corpus"] = record.get("corpus"), absolute(corpus.directory)
    stored = checkpoints.stored(step)
    assert stored
    digest = state_sha256(stored.digests)
    return {"run": run, "step": step, "state_sha256": digest, "changes": changed}


def _past_ends(config: RunConfig, step: int) -> list[int]:
    """The ends of the phases that are over before `step`."""
    return [phase.until for phase in config.all_phases if phase.until < step]


def forked_state(fork: str, abstract: Any) -> Restored:
    """The state that a fork begins with, verified and sound."""
    run, step = fork_of(fork)
    found = Checkpoints(run).restore(abstract, step=step, bound=LARGEST)
    assert found
    notes = [f"forked from step {step} of {run}"]
    return found._replace(meta={"log": found.meta.get("log")}, notes=notes)
