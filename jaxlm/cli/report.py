"""`jaxlm report RUN [RUN2 …]`: one page of a run, or of several side by side."""

import os
from dataclasses import dataclass
from pathlib import Path

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.files import is_remote
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Report:
    """One HTML page of a run, or of several on the same axes: curves beside their
    baselines, samples over time, configuration, provenance and digests. It needs no
    network, and a run may be training meanwhile."""

    directory: Positional[tuple[str, ...]]
    """Run directories of one family, or of one task."""
    out: str = "report.html"
    """Page to write."""


def run_report(argv: list[str]) -> int:
    """The verb `report`."""
    args = parse(Report, argv)
    if not args.directory:
        raise UserError("no run: jaxlm report RUN [RUN2 …] --out report.html")
    from jaxlm.files import write_file
    from jaxlm.report.page import report
    from jaxlm.report.runs import read_runs

    out = Path(args.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a directory: name a file, {out}/report.html")

    def link(path: str) -> str:
        return path if is_remote(path) else os.path.relpath(path, out.parent)

    text = report(read_runs(args.directory), link)
    write_file(out, text)
    print(f"{out}: {len(text.encode()) / 1e6:.2f} MB")
    return 0
