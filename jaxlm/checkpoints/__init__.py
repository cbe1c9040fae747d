"""A run's state on disk: saved atomically, verified leaf by leaf when it is read.

store.py        Checkpoints: save, retain, restore, fall back
manifest.py     what a checkpoint says about itself, sealed with a hash
digests.py      128 bits for each leaf, computed where the leaf is
leaf_files.py   one leaf: a zarr array in a directory of its own
"""

from jaxlm.checkpoints.leaf_files import StoredLeaf
from jaxlm.checkpoints.manifest import UnsoundError
from jaxlm.checkpoints.store import Checkpoints, Restored, restore_params

__all__ = ["Checkpoints", "Restored", "StoredLeaf", "UnsoundError", "restore_params"]
