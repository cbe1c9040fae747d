"""(step, state, meta) in → `checkpoints/<step>/` → the same state on any mesh out.

A checkpoint is a zarr array for each leaf in `state/<path of the leaf>` and a manifest:
format version, step, the digest of every leaf, and `meta`, any JSON of the caller's.
Orbax writes both in the background and makes the step appear in one rename. Digests are
recomputed after a restore because Orbax restores flipped bits without an error. Old
steps are deleted here because Orbax deletes them in place: a kill would leave half a
step that looks whole. Next: `train/loop.py`, and `open/` for reading.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxlm.checkpoints.digests import LeafDigest, digest
from jaxlm.checkpoints.leaf_files import STATE, StoredLeaf, first_line
from jaxlm.checkpoints.manifest import CheckpointManifest, UnsoundError
from jaxlm.tree import differences, leaves, map_with_path
from jaxlm.types import UserError

_TEMPORARY, _DELETED = ".orbax-checkpoint-tmp", ".deleted"


def _not_orbax(record: logging.LogRecord) -> bool:
    """Orbax raises what it logs as an error; its other messages help no user."""
    return "orbax" not in record.pathname and _TEMPORARY not in record.getMessage()


for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(_not_orbax)


class Restored(NamedTuple):
    """A verified state, and which newer checkpoints were not sound."""

    step: int
    state: Any
    digests: dict[str, LeafDigest]
    meta: dict[str, Any]
    notes: list[str]  # one line for each of those


class Checkpoints:
    """The checkpoints of one run directory, local or `gs://`.

    The newest `keep` stay, and for good those of the steps for which `keeps` is true.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        keeps: Callable[[int], bool] = lambda step: False,
    ):
        if keep < 1:
            raise UserError(f"keep = {keep}: at least the newest checkpoint must stay")
        self.directory = epath.Path(workdir) / "checkpoints"
        self._keep, self._keeps = keep, keeps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def open(self) -> list[str]:
        """Make the directory and remove what killed saves left; returns their names.

        Only for the process that holds the lock of the run directory: any other would
        remove a save that is under way. UserError if it cannot be written.
        """
        if jax.process_index() != 0:
            return []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_text("")
            probe.unlink()
            sound = {str(step) for step in self.steps()}
            orphans = sorted(
                each.name
                for each in self.directory.iterdir()
                if _TEMPORARY in each.name
                or each.name.endswith(_DELETED)
                or (each.name.isdigit() and each.name not in sound)
            )
            for name in orphans:
                (self.directory / name).rmtree()
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {first_line(error)}"
            ) from error
        return orphans

    def steps(self) -> list[int]:
        """Steps whose save was completed, ascending."""
        if not self.directory.exists():
            return []
        # On a local disk a step appears by a rename, on gs:// by a marker file.
        remote = str(self.directory).startswith("gs://")
        return sorted(
            int(each.name)
            for each in self.directory.iterdir()
            if each.name.isdigit()
            and (not remote or (each / "commit_success.txt").exists())
        )

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any]
    ) -> dict[str, LeafDigest]:
        """Start saving; returns the digests once the state is copied off the devices.

        Waits for the previous save first; UserError if that failed.
        """
        self.wait()
        digests = digest(state)
        if step in self.steps():
            if self.manifest(step).digests == digests:
                return digests  # the step that this run was restored from
            path = self.directory / str(step)
            raise UserError(f"{path} holds another state of step {step}")
        manifest = CheckpointManifest(step, digests, dict(meta)).seal()
        try:
            with _context():
                response = ocp.save_async(
                    self.directory / str(step),
                    dict(leaves(state)),  # pyrefly: ignore
                    checkpointable_name=STATE,
                    custom_metadata=manifest,
                )
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = self._thread.submit(self._finish, step, response)
        return digests

    def _finish(self, step: int, response: Any) -> None:
        """In the background: wait until the step is durable, then delete old ones."""
        first = jax.process_index() == 0
        try:
            with _without_closed_loops():
                response.result()
        except Exception as error:
            if first:
                with suppress(OSError):
                    for orphan in self.directory.glob(f"{step}{_TEMPORARY}*"):
                        orphan.rmtree()  # makes room on a disk that may be full
            raise self._failed(step, error) from error
        for old in self.steps()[: -self._keep] if first else ():
            if not self._keeps(old):
                self._delete(old)

    def _delete(self, step: int) -> None:
        """Delete a step; a kill half-way leaves an orphan, never half a step."""
        path = self.directory / str(step)
        if str(path).startswith("gs://"):
            (path / "commit_success.txt").unlink(missing_ok=True)
        else:
            path = path.rename(self.directory / f"{step}{_DELETED}")
        path.rmtree()

    def _failed(self, step: int, error: Exception) -> UserError:
        sound = [each for each in self.steps() if each != step]
        rest = f"step {sound[-1]} is the newest sound one" if sound else "there is none"
        return UserError(
            f"saving step {step} to {self.directory / str(step)} failed: "
            f"{first_line(error)}; {rest}"
        )

    def check(self) -> None:
        """Raise a UserError if the last save has failed by now; does not wait."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is durable; UserError if it failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def manifest(self, step: int) -> CheckpointManifest:
        """The manifest of a step; UnsoundError if it is missing or was changed."""
        path = self.directory / str(step) / "_CHECKPOINT_METADATA"
        try:
            sealed = json.loads(path.read_text())["custom_metadata"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnsoundError(f"{path} cannot be read: {first_line(error)}") from error
        return CheckpointManifest.unseal(sealed, step, str(path))

    def restore(
        self,
        abstract: Any,
        *,
        part: str = "",
        fallback: bool = False,
    ) -> Restored | None:
        """The newest checkpoint, verified; None if there is none.

        Args:
            abstract: tree of `jax.ShapeDtypeStruct`, with the shardings to restore to.
            part: prefix of the paths to read, for example "params/": `abstract` is then
                the tree under it.
            fallback: if the newest is not sound take the one before, and so on; those
                passed over are renamed to `<step>.unsound`.

        Raises:
            UnsoundError: a leaf cannot be read or has another digest.
            UserError: leaves are missing, unknown or of another shape.
        """
        older = self.steps()
        unsound: dict[int, str] = {}
        while older and (fallback or not unsound):
            step = older.pop()
            try:
                restored = self._restore(step, abstract, part)
            except UnsoundError as error:
                unsound[step] = str(error)
            else:
                self._put_aside(unsound)
                return restored._replace(notes=list(unsound.values()))
        if not unsound:
            return None
        way = "there is no older checkpoint to go back to"
        if older:
            way = f"pretrain --fallback goes back to step {older[-1]}"
        raise UnsoundError("; ".join([*unsound.values(), way]))

    def stored(self, part: str = "") -> Restored | None:
        """The newest checkpoint as nested dicts of `StoredLeaf`; None if there is none.

        For one pass over the leaves: each is verified when it is read.
        """
        steps = self.steps()
        return self._stored(steps[-1], part) if steps else None

    def _stored(self, step: int, part: str) -> Restored:
        path, manifest = self.directory / str(step), self.manifest(step)
        digests = {p: d for p, d in manifest.digests.items() if p.startswith(part)}
        flat = {p.removeprefix(part): StoredLeaf(path, p, digests[p]) for p in digests}
        state = traverse_util.unflatten_dict(flat, sep="/")
        return Restored(step, state, digests, manifest.meta, [])

    def _restore(self, step: int, abstract: Any, part: str) -> Restored:
        stored = self._stored(step, part)
        on_disk = {leaf.path: leaf for leaf in jax.tree.leaves(stored.state)}
        wanted = {part + path: leaf for path, leaf in leaves(abstract)}
        problems = differences(wanted, stored.digests)
        if problems:
            head = f"{self.directory / str(step)} does not fit this run:"
            raise UserError("\n".join([head, *problems]))
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        read, damage = {}, None
        try:
            for path, leaf in wanted.items():
                sharding = getattr(leaf, "sharding", None) or default
                read[path] = on_disk[path].place(sharding)
        except UnsoundError as error:
            damage = error
        if _on_any_host(damage is not None):
            other = (
                f"{self.directory / str(step)} is damaged: another host cannot read it"
            )
            raise damage or UnsoundError(other)
        digests = digest(read)
        for path, leaf in on_disk.items():
            leaf.check(digests[path])
        state = map_with_path(lambda path, _: read[part + path], abstract)
        return stored._replace(state=state)

    def _put_aside(self, steps: Iterable[int]) -> None:
        for step in steps if jax.process_index() == 0 else ():
            aside = self.directory / f"{step}.unsound"
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)


def restore_params(
    workdir: str | os.PathLike, abstract: Any = None, *, stored: bool = False
) -> Restored:
    """The best parameters of a run on its dev file, else those of the newest step.

    `stored`: they stay on disk, for one pass, as `Checkpoints.stored` gives them.
    """
    for directory in (f"{workdir}/best", workdir):
        checkpoints = Checkpoints(directory)
        if stored:
            found = checkpoints.stored("params/")
        else:
            found = checkpoints.restore(abstract, part="params/")
        if found:
            return found
    raise UserError(f"{workdir} has no checkpoint yet")


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_ocdbt = False  # a directory a leaf: damage names its leaf
    context.array.saving.use_zarr3 = True
    context.array.saving.use_compression = False  # floats hardly shrink
    return context


@contextmanager
def _without_closed_loops() -> Iterator[None]:
    """Hide errors of leaves whose event loop was closed by the failure of another."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        time.sleep(1)  # the threads of the other leaves report late
        raise
    finally:
        sys.unraisablehook = before


def _on_any_host(here: bool) -> bool:
    """Whether `here` is true on any host: all must take the same branch, or hang."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())
