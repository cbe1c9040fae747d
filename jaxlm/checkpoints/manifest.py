"""What a checkpoint says about itself: JSON sealed with a hash.

Next: `store.py` writes the manifest beside the leaves.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlm.checkpoints.digests import LeafDigest
from jaxlm.types import UserError

FORMAT = 2  # of a run directory; raised when a run cannot go on with other code


class UnsoundError(UserError):
    """A checkpoint that does not hold what was saved."""


class CheckpointManifest(NamedTuple):
    """Step, digests and the caller's data of a checkpoint."""

    step: int
    digests: dict[str, LeafDigest]
    meta: dict[str, Any]  # the caller's, any JSON

    def seal(self) -> dict[str, Any]:
        """JSON with the format version, and a hash that shows any later change."""
        content = {
            "format": FORMAT,
            "step": self.step,
            "digests": {path: str(each) for path, each in self.digests.items()},
            "meta": self.meta,
        }
        return {**content, "sha256": _sha256_of(content)}

    @classmethod
    def unseal(cls, sealed: Any, step: int, path: str) -> "CheckpointManifest":
        """The manifest that `seal` made JSON of; `path` is for messages."""
        if not isinstance(sealed, dict) or not {"format", "sha256"} <= sealed.keys():
            raise UnsoundError(f"{path} is not the manifest of a jaxlm checkpoint")
        content = {name: each for name, each in sealed.items() if name != "sha256"}
        if _sha256_of(content) != sealed["sha256"]:
            raise UnsoundError(f"{path} was changed after it was written")
        check_format(content["format"], path)
        if content["step"] != step:
            raise UnsoundError(f"{path} is of step {content['step']}, not {step}")
        digests = {p: LeafDigest.parse(text) for p, text in content["digests"].items()}
        return cls(step, digests, content["meta"])


def check_format(found: int, path: str) -> None:
    """Raise a UserError if a run directory or checkpoint is of another format."""
    if found != FORMAT:
        raise UserError(
            f"{path} has format {found}; this jaxlm reads {FORMAT}: go on with the "
            "jaxlm that made it, or start again"
        )


def _sha256_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
