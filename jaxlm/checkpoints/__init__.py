"""A run's state on disk: saved atomically, verified leaf by leaf when it is read."""

from jaxlm.checkpoints.digests import state_sha256
from jaxlm.checkpoints.leaf_files import StoredLeaf, UnsoundError
from jaxlm.checkpoints.store import (
    Checkpoints,
    Restored,
    RunFiles,
    check_best,
    restore_params,
)

__all__ = [
    "Checkpoints",
    "Restored",
    "RunFiles",
    "StoredLeaf",
    "UnsoundError",
    "check_best",
    "restore_params",
    "state_sha256",
]
