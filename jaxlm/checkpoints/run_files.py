"""The config of a run and the digests of its data, beside those of its checkpoints.

Next: `store.py`, whose manifests have both.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from jaxlm.config import RunConfig
from jaxlm.config.files import changes, from_dict
from jaxlm.types import UserError


class RunFiles(NamedTuple):
    """The current config of a run and the current digests of its data."""

    config: RunConfig
    digests: Mapping[str, Any]  # of text and vocabulary: those named `…_sha256` count

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint stores: config and digests."""
        digests = {k: v for k, v in self.digests.items() if k.endswith("_sha256")}
        return {"config": dataclasses.asdict(self.config), **digests}

    def check(self, kept: Mapping[str, Any], path: epath.Path) -> None:
        """Raise a UserError if config or digests differ from those of a checkpoint."""
        if not kept:
            return  # by an older version
        if lines := self.differences(from_dict(kept["config"]), kept):
            raise UserError(f"{path} was saved by another run: {'; '.join(lines)}")

    def differences(self, config: RunConfig, digests: Mapping[str, Any]) -> list[str]:
        """A line for each difference from an earlier config and its digests."""
        now = changes(config, self.config)
        lines = [f"{name} was {old}, is {new}" for name, (old, new) in now.items()]
        return lines + [
            f"{name} was {old[:12]}…, is {new[:12]}…"
            for name, new in self.digests.items()
            if name.endswith("_sha256") and (old := digests.get(name, new)) != new
        ]
