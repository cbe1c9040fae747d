"""Where a model comes from, for the files of its export."""

import os
from pathlib import Path
from typing import Any

from jaxlm.config import RunConfig
from jaxlm.files import absolute, check_own, place, read_json
from jaxlm.train.workdir import written_provenance
from jaxlm.types import UserError


def check_out(out: str, *read: str) -> None:
    """Refuse to replace what is read: another form may hold less."""
    check_own("--out", out)
    if place(out).resolve() in [place(each).resolve() for each in read]:
        raise UserError(f"--out {out} is the directory that is read: name another")


def origin_of(
    here: str | os.PathLike, run: RunConfig, step: int | None
) -> dict[str, Any]:
    """A description of a model's origin, without paths, for the export's files."""
    if step is None:
        path = place(here) / "jaxlm_export.json"
        known = read_json(path).get("origin") if path.is_file() else {}
        return known or {"model": Path(absolute(here)).name}
    of = f"{step:,} of {run.steps:,}"
    known = {"run": Path(absolute(here)).name, "step": of, "seed": run.seed}
    if run.finetunes:
        return {**known, "from": Path(run.init).name}
    newest = written_provenance(here)[-1]
    return {
        **known,
        "rows": ", ".join(
            f"{p.batch} × {p.length} tokens to step {p.until:,}" for p in run.all_phases
        ),
        "optimiser": f"{run.optim.name}, rate {run.optim.peak:g}",
        "corpus sha256": newest["corpus_sha256"],
        "tokenizer sha256": newest["tokenizer_sha256"],
        "commit": newest["commit"] or "none",
        "versions": newest["versions"],
    }
