"""(step, state, meta) in → `checkpoints/<step>/` → the same state on any mesh out.

    checkpoints = Checkpoints(workdir, keep=2, keep_every=10_000)
    orphans = checkpoints.open()               what killed saves left, removed
    restored = checkpoints.restore(abstract)   None where nothing was saved yet
    stored = checkpoints.stored(abstract)      the same, its leaves read when wanted
    checkpoints.save(step, state, meta)        asynchronous: the state may be donated
    checkpoints.check()                        raises if a save failed; never waits
    checkpoints.close()                        waits for the last one

A checkpoint is a zarr array a leaf under `state/<path of the leaf>` and a manifest:
format version, step, the digest of every leaf, and `meta`, any JSON of the caller's.
Orbax writes both and makes the step appear in one rename; the digests are recomputed
after a restore, since Orbax alone restores flipped bits in silence. This is the only
file that knows Orbax; leaves are read by `leaf_files.py`. Next: `train/loop.py`, and
`open/` for reading.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxlm.checkpoints.digests import LeafDigest, digest
from jaxlm.checkpoints.leaf_files import (
    STATE,
    StoredLeaf,
    check_digest,
    damaged,
    first_line,
    read_leaf,
)
from jaxlm.checkpoints.manifest import CheckpointManifest, UnsoundError, differences
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError

_ORPHAN = (".orbax-checkpoint-tmp", ".deleted")


def _news(record: logging.LogRecord) -> bool:
    """False for what Orbax logs although it raises it too, or although all is well."""
    return (
        "orbax" not in record.pathname
        and ".orbax-checkpoint" not in record.getMessage()
    )


for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(_news)


class Restored(NamedTuple):
    """A verified state, and what was passed over to find it."""

    step: int
    state: Any
    digests: dict[str, LeafDigest]
    meta: dict[str, Any]
    notes: list[str]  # one line for each newer checkpoint that was not sound


class Checkpoints:
    """The checkpoints of one run directory, local or `gs://`.

    Args:
        workdir: the run directory.
        keep: newest checkpoints to keep, at least 1.
        keep_every: multiples of this step stay for good; 0: none.
    """

    def __init__(
        self, workdir: str | os.PathLike, *, keep: int = 2, keep_every: int = 0
    ):
        if keep < 1:
            raise UserError(f"keep = {keep}: at least the newest checkpoint must stay")
        self.directory = epath.Path(workdir) / "checkpoints"
        self.keep, self.keep_every = keep, keep_every
        self._thread: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None

    def open(self) -> list[str]:
        """Make the directory and remove what killed saves left; returns their names.

        Only for the process that trains here (see `train/workdir.py`): a reader would
        remove the save that is under way.

        Raises:
            UserError: the directory cannot be written.
        """
        if jax.process_index() != 0:
            return []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_text("")
            probe.unlink()
            sound = {str(step) for step in self.steps()}
            orphans = [
                each
                for each in sorted(self.directory.iterdir())
                if any(mark in each.name for mark in _ORPHAN)
                or (each.name.isdigit() and each.name not in sound)
            ]
            for each in orphans:
                each.rmtree()
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {first_line(error)}"
            ) from error
        return [each.name for each in orphans]

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

        Waits for the previous save first, so two never overlap.

        Raises:
            UserError: this save could not start, or the previous one failed.
        """
        self.wait()
        flat = dict(leaves(state))
        digests = digest(state)
        if step in self.steps():
            if self.manifest(step).digests == digests:
                return digests  # the step that this run was restored from
            raise UserError(
                f"{self.directory / str(step)} holds another state of step {step}"
            )
        manifest = CheckpointManifest(step, digests, dict(meta)).seal()
        try:
            with _context():
                response = ocp.save_async(
                    self.directory / str(step),
                    flat,  # pyrefly: ignore
                    checkpointable_name=STATE,
                    custom_metadata=manifest,
                )
        except Exception as error:
            raise self._failed(step, error) from error
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving = self._thread.submit(self._finish, step, response)
        return digests

    def _finish(self, step: int, response: Any) -> None:
        """In the background: see the save through, then make room."""
        # When one leaf fails to be written, the others find their event loop closed.
        before, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            response.result()
        except Exception as error:
            if jax.process_index() == 0:
                with contextlib.suppress(OSError):
                    for orphan in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                        orphan.rmtree()  # what is left of a disk that may be full
            raise self._failed(step, error) from error
        sys.unraisablehook = before
        if jax.process_index() == 0:
            for old in self._surplus():
                self._remove(old)

    def _surplus(self) -> list[int]:
        return [
            step
            for step in self.steps()[: -self.keep]
            if not (self.keep_every and step % self.keep_every == 0)
        ]

    def _remove(self, step: int) -> None:
        """Delete a step so that a kill half-way leaves an orphan, not half a step."""
        path = self.directory / str(step)
        if str(path).startswith("gs://"):
            (path / "commit_success.txt").unlink(missing_ok=True)
        else:
            path = path.rename(self.directory / f"{step}.deleted")
        path.rmtree()

    def _failed(self, step: int, error: Exception) -> UserError:
        sound = [each for each in self.steps() if each != step]
        rest = f"step {sound[-1]} is the newest sound one" if sound else "there is none"
        return UserError(
            f"saving step {step} to {self.directory / str(step)} failed: "
            f"{first_line(error)}; {rest}"
        )

    def check(self) -> None:
        """Raise the error of a save that has failed by now; does not wait.

        Raises:
            UserError: the last save failed; names its step.
        """
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is durable.

        Raises:
            UserError: it failed; names its step.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """`wait`, and end the background thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def manifest(self, step: int) -> CheckpointManifest:
        """The manifest of a completed step, checked against its own hash.

        Raises:
            UnsoundError: it is missing or changed.
            UserError: it is of another format version.
        """
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
        step: int | None = None,
        part: str = "",
        fallback: bool = False,
    ) -> Restored | None:
        """The newest checkpoint (or that of `step`), verified; None if there is none.

        Args:
            abstract: tree of `jax.ShapeDtypeStruct`, with the shardings to restore to.
            step: a certain step instead of the newest.
            part: prefix of the paths to read, for example "params/": `abstract` is then
                the tree under it.
            fallback: where the newest is not sound, take the one before, and so on;
                those passed over are renamed to `<step>.unsound`.

        Raises:
            UnsoundError: a leaf cannot be read or has another digest; names it.
            UserError: leaves are missing, unknown or of another shape: both sides.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            have = ", ".join(map(str, steps)) or "none"
            raise UserError(f"no step {step} in {self.directory}; there is {have}")
        if step is not None:
            steps = [step]
        notes: list[str] = []
        passed: list[int] = []
        for each in reversed(steps):
            try:
                restored = self._restore(each, abstract, part)
            except UnsoundError as error:
                notes.append(str(error))
                passed.append(each)
                if not fallback:
                    break
            else:
                if jax.process_index() == 0:
                    for bad in passed:
                        aside = self.directory / f"{bad}.unsound"
                        if aside.exists():
                            aside.rmtree()
                        (self.directory / str(bad)).rename(aside)
                return restored._replace(notes=notes)
        if not notes:
            return None
        older = [each for each in steps if each < passed[-1]]
        notes.append(
            f"pretrain --fallback goes back to step {older[-1]}"
            if older
            else "there is no older checkpoint to go back to"
        )
        raise UnsoundError("; ".join(notes))

    def stored(self, abstract: Any, *, part: str = "") -> Restored | None:
        """The newest checkpoint as a tree of `StoredLeaf`; None if there is none.

        For what passes over the leaves once, on one host: only those that are in use
        are in memory.

        Args:
            abstract: tree of `jax.ShapeDtypeStruct`.
            part: see `restore`.

        Raises:
            UnsoundError: its manifest is missing or changed.
            UserError: see `restore`.
        """
        steps = self.steps()
        if not steps:
            return None
        step = self.directory / str(steps[-1])
        manifest, digests = self._fitting(steps[-1], abstract, part)
        state = map_with_path(
            lambda p, _: StoredLeaf(step, part + p, digests[part + p]), abstract
        )
        return Restored(steps[-1], state, digests, manifest.meta, [])

    def _fitting(
        self, step: int, abstract: Any, part: str
    ) -> tuple[CheckpointManifest, dict[str, LeafDigest]]:
        """The manifest, its leaves under `part`; UserError where others are asked."""
        manifest = self.manifest(step)
        stored = {p: d for p, d in manifest.digests.items() if p.startswith(part)}
        wanted = {part + p: leaf for p, leaf in leaves(abstract)}
        problems = differences(wanted, stored)
        if problems:
            raise UserError(
                f"{self.directory / str(step)} does not fit this run:\n"
                + "\n".join(problems)
            )
        return manifest, stored

    def _restore(self, step: int, abstract: Any, part: str) -> Restored:
        path = self.directory / str(step)
        manifest, stored = self._fitting(step, abstract, part)
        flat = {}
        damage = None
        for p, leaf in leaves(abstract):
            try:
                flat[part + p] = read_leaf(path / STATE / (part + p), _placed(leaf))
            except Exception as error:
                damage = damaged(path, part + p, error)
                damage.__cause__ = error
                break
        if _on_any_host(damage is not None):
            raise damage or UnsoundError(
                f"{path} is damaged: another host cannot read it"
            )
        digests = digest(flat)
        for p, each in digests.items():
            check_digest(path, p, each, stored[p])
        state = map_with_path(lambda p, _: flat[part + p], abstract)
        return Restored(step, state, digests, manifest.meta, [])


def _context() -> ocp.Context:
    """A directory a leaf, so that a damaged file names its leaf."""
    context = ocp.Context()
    context.array.saving.use_ocdbt = False
    context.array.saving.use_zarr3 = True
    context.array.saving.use_compression = (
        False  # floats hardly shrink, flips must show
    )
    context.pytree.loading.partial_load = True
    return context


def _on_any_host(here: bool) -> bool:
    """Whether it is so on any host: all must go the same way, or some wait for ever."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
