"""What a checkpoint says of itself: step, digests of the leaves, config of the run.

Next: `store.py`, which writes a manifest with each state and reads it first.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from jaxlm.checkpoints.digests import LeafDigest
from jaxlm.checkpoints.leaf_files import UnsoundError, first_line
from jaxlm.config import RunConfig
from jaxlm.config.files import changes, from_dict
from jaxlm.files import SEAL, DamagedError, seal, unseal
from jaxlm.types import UserError

FORMAT = 2  # of a run directory; raised when a run cannot go on with other code


class RunFiles(NamedTuple):
    """The current config of a run and the current digests of its data."""

    config: RunConfig
    digests: Mapping[str, Any]  # of text and vocabulary: those named `…_sha256` count

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint stores: config and digests."""
        digests = {k: v for k, v in self.digests.items() if k.endswith("_sha256")}
        return {"config": dataclasses.asdict(self.config), **digests}

    def differences(self, config: RunConfig, digests: Mapping[str, Any]) -> list[str]:
        """A line for each difference from an earlier config and its digests."""
        now = changes(config, self.config)
        lines = [f"{name} was {old}, is {new}" for name, (old, new) in now.items()]
        return lines + [
            f"{name} was {old[:12]}…, is {new[:12]}…"
            for name, new in self.digests.items()
            if name.endswith("_sha256") and (old := digests.get(name, new)) != new
        ]


def sealed_manifest(
    step: int,
    digests: Mapping[str, LeafDigest],
    meta: Mapping[str, Any],
    run: RunFiles | None,
) -> dict[str, Any]:
    """The manifest as JSON, with its own hash to detect later changes."""
    content = {
        "format": FORMAT,
        "step": step,
        "digests": {path: str(each) for path, each in digests.items()},
        "meta": dict(meta),
        "run": run.as_json() if run else {},
    }
    return seal(content)


def read_manifest(
    step: epath.Path, run: RunFiles | None
) -> tuple[dict[str, LeafDigest], dict[str, Any]]:
    """(the digests, the caller's `meta`) of a checkpoint in the directory `step`.

    UnsoundError if the manifest is damaged, UserError if another run saved it.
    """
    path = step / "_CHECKPOINT_METADATA"
    try:
        sealed = json.loads(path.read_text())["custom_metadata"] or {}
        if not {"format", SEAL} <= sealed.keys():
            raise UnsoundError(f"{path} is not the manifest of a jaxlm checkpoint")
        content = unseal(sealed, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsoundError(f"{path} cannot be read: {first_line(error)}") from error
    except DamagedError as error:
        raise UnsoundError(str(error)) from None
    check_format(content["format"], str(path))
    if content["step"] != int(step.name):
        raise UnsoundError(f"{path} is of step {content['step']}, not {step.name}")
    kept = content.get("run")  # older versions have none
    if run and kept and (lines := run.differences(from_dict(kept["config"]), kept)):
        raise UserError(f"{step} was saved by another run: {'; '.join(lines)}")
    digests = {p: LeafDigest.parse(each) for p, each in content["digests"].items()}
    return digests, content["meta"]


def check_format(found: int, path: str) -> None:
    """Raise a UserError if a run directory or checkpoint has another format."""
    if found != FORMAT:
        remedy = "go on with the jaxlm that made it, or start again"
        this = f"{path} has format {found}; this jaxlm reads {FORMAT}"
        raise UserError(f"{this}: {remedy}")
