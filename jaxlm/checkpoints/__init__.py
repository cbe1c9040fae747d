"""A run's state on disk: saved atomically, verified leaf by leaf when it is read."""

from jaxlm.checkpoints.digests import state_sha256
from jaxlm.checkpoints.leaf_files import StoredLeaf, UnsoundError, read_leaves
from jaxlm.checkpoints.manifest import RunFiles
from jaxlm.checkpoints.store import (
    Checkpoints,
    Restored,
    check_best,
    restore_params,
)
