"""(step, state, meta) → `checkpoints/<step>/` → the same state on any mesh.

A checkpoint is a zarr array for each leaf in `state/<path of the leaf>` and a manifest:
format version, step, the digest of every leaf, the config and the digests of the files
that the state depends on, and `meta`, any JSON from the caller.
Orbax writes both in the background and makes the step appear in one rename. Digests are
recomputed after a restore because Orbax restores flipped bits without an error. Old
steps are deleted here because Orbax deletes them in place: a kill would leave half a
step that looks whole. Next: `train/loop.py`, which saves; `jaxlm/open`, which reads.
"""

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from jaxlm.checkpoints.digests import LeafDigest, digest
from jaxlm.checkpoints.leaf_files import (
    CHUNK,
    STATE,
    StoredLeaf,
    UnsoundError,
    first_line,
    read_leaves,
)
from jaxlm.checkpoints.manifest import RunFiles, read_manifest, sealed_manifest
from jaxlm.files import absolute, is_remote, listed, place
from jaxlm.tree import differences, leaves, map_with_path
from jaxlm.types import UserError

_TEMPORARY, _DELETED = ".orbax-checkpoint-tmp", ".deleted"
_COMMITTED = "commit_success.txt"


def _not_orbax(record: logging.LogRecord) -> bool:
    """Whether to show a log record. Orbax's are hidden: it raises its errors too, the
    first of several; asyncio logs the others."""
    raised = traceback.walk_tb(record.exc_info[2] if record.exc_info else None)
    places = [record.pathname, *(frame.f_code.co_filename for frame, _ in raised)]
    within = any("orbax" in each for each in places)
    return not within and _TEMPORARY not in record.getMessage()


for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(_not_orbax)


class Restored(NamedTuple):
    """A state, its checkpoint's metadata, and why newer checkpoints were skipped."""

    step: int
    state: Any
    digests: dict[str, LeafDigest]
    meta: dict[str, Any]
    notes: list[str]  # one line for each skipped checkpoint


class Checkpoints:
    """The checkpoints of one run directory, local or `gs://`.

    The newest `keep` stay; a step for which `keeps` is true is never deleted.
    UserError for a checkpoint that another `run` saved.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        keeps: Callable[[int], bool] = lambda step: False,
        run: RunFiles | None = None,
    ):
        # TensorStore takes no "..".
        self.directory = place(absolute(workdir)) / "checkpoints"
        # On a local disk a step appears by a rename, on gs:// by a marker file.
        self._remote = is_remote(workdir)
        self._keep, self._keeps, self.run = keep, keeps, run
        self._first = jax.process_index() == 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def open(self) -> list[str]:
        """Make the directory and remove unfinished saves; returns their names.

        Only the process that holds the lock of the run directory may call this: any
        other would remove a save that is under way.
        """
        if not self._first:
            return []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_text("")
            probe.unlink()
            sound = [str(step) for step in self.steps()]
            orphans = []
            for each in listed(self.directory):
                uncommitted = each.name.isdigit() and each.name not in sound
                if uncommitted or _TEMPORARY in each.name or each.suffix == _DELETED:
                    each.rmtree()
                    orphans.append(each.name)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {first_line(error)}"
            ) from error
        return orphans

    def steps(self) -> list[int]:
        """The steps whose saves are complete, ascending."""
        return sorted(
            int(each.name)
            for each in listed(self.directory)
            if each.name.isdigit()
            and (not self._remote or (each / _COMMITTED).exists())
        )

    def kept(self, step: Any) -> int:
        """A step that is kept; UserError with those that are, if it is not."""
        steps = self.steps()
        if step not in steps:
            every = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"{self.directory} has no step {step}, but {every}; "
                "pretrain --keep_every log keeps steps 0, 1, 2, 4, 8 …"
            )
        return int(step)

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any], held: int | None = None
    ) -> dict[str, LeafDigest]:
        """Start saving; returns the digests once the state is copied off the devices.

        Waits for the previous save first; UserError if that failed. The step `held`
        stays as well as the newest ones.
        """
        self.wait()
        digests, path = digest(state), self.directory / str(step)
        if step in self.steps():
            if read_manifest(path, self.run)[0] == digests:
                return digests  # the step that this run was restored from
            raise UserError(f"{path} holds another state of step {step}")
        try:
            with _context(self._remote):
                response = ocp.save_async(
                    path,
                    dict(leaves(state)),  # pyrefly: ignore
                    checkpointable_name=STATE,
                    custom_metadata=sealed_manifest(step, digests, meta, self.run),
                )
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = self._thread.submit(self._finish, step, response, held)
        return digests

    def _finish(self, step: int, response: Any, held: int | None) -> None:
        """In the background: wait until the step is durable, then delete old ones."""
        try:
            with _without_closed_loops():
                response.result()
        except Exception as error:
            if self._first:
                with suppress(OSError):
                    for orphan in self.directory.glob(f"{step}{_TEMPORARY}*"):
                        orphan.rmtree()  # makes room on a disk that may be full
            raise self._failed(step, error) from error
        for old in self.steps()[: -self._keep] if self._first else ():
            if old != held and not self._keeps(old):
                # A kill half-way leaves an orphan, never half a step.
                path = self.directory / str(old)
                if self._remote:
                    (path / _COMMITTED).unlink(missing_ok=True)
                else:
                    path = path.rename(f"{path}{_DELETED}")
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

    def stored(self, step: int | None = None, *, part: str = "") -> Restored | None:
        """A checkpoint, by default the newest, with a `StoredLeaf` for each leaf.

        A leaf is read and verified each time it is used, so use each leaf once. `part`
        is a prefix of paths, for example "params/": the state is the tree below that
        prefix, in nested dicts.
        """
        step = max(self.steps(), default=None) if step is None else step
        if step is None:
            return None
        path = self.directory / str(step)
        digests, meta = read_manifest(path, self.run)
        digests = {p: each for p, each in digests.items() if p.startswith(part)}
        flat = {p[len(part) :]: StoredLeaf(path, p, digests[p]) for p in digests}
        state = traverse_util.unflatten_dict(flat, sep="/")
        return Restored(step, state, digests, meta, [])

    def restore(
        self,
        abstract: Any,
        *,
        step: int | None = None,
        part: str = "",
        bound: float = math.inf,
        fallback: bool = False,
    ) -> Restored | None:
        """A checkpoint, by default the newest, verified; None if there is none.

        `abstract` has the shapes and the shardings to restore to; for `part` see
        `stored`. UnsoundError if a leaf cannot be read, has another digest or is not
        finite, or if a parameter is above the bound. With `fallback`, such checkpoints
        are renamed to `<step>.unsound` instead, and the newest sound one is restored.
        """
        older, unsound = self.steps() if step is None else [step], {}
        while older and (fallback or not unsound):
            step = older.pop()
            try:
                restored = self._restore(step, abstract, part, bound)
            except UnsoundError as error:
                unsound[step] = str(error)
                continue
            for each in unsound if self._first else ():
                path = self.directory / str(each)
                aside = self.directory / f"{each}.unsound"
                if aside.exists():
                    aside.rmtree()
                path.rename(aside)
            return restored._replace(notes=[*unsound.values()])
        if not unsound:
            return None
        way = "there is no older checkpoint to go back to"
        if older:
            way = f"pretrain --fallback goes back to step {older[-1]}"
        raise UnsoundError("; ".join([*unsound.values(), way]))

    def _restore(self, step: int, abstract: Any, part: str, bound: float) -> Restored:
        stored, wanted = self.stored(step, part=part), dict(leaves(abstract))
        assert stored
        on_disk, path = dict(leaves(stored.state)), self.directory / str(step)
        if problems := differences(wanted, on_disk):
            raise UserError("\n".join([f"{path} does not fit this run:", *problems]))
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = {}
        for name, leaf in wanted.items():
            sharding = getattr(leaf, "sharding", None) or default
            if on_disk[name].shape != leaf.shape and hasattr(sharding, "mesh"):
                sharding = NamedSharding(sharding.mesh, PartitionSpec())  # whole
            shardings[name] = sharding
        bounds = {p: bound if p.startswith("params/") else math.inf for p in wanted}
        read = read_leaves(on_disk, shardings, bounds)
        for name, leaf in wanted.items():
            read[name] = _with_padding(read[name], leaf)
        return stored._replace(state=map_with_path(lambda p, _: read[p], abstract))


def restore_params(
    workdir: str | os.PathLike,
    abstract: Any = None,
    *,
    step: int | None = None,
    stored: bool = False,
    run: RunFiles | None = None,
) -> Restored:
    """The parameters of a step; by default those best on dev, else the newest ones.

    `stored`: the parameters stay on disk; see `Checkpoints.stored`. UserError if the
    step is not kept.
    """
    if step is not None:
        step = Checkpoints(workdir).kept(step)
    for directory in (f"{workdir}/best", workdir)[step is not None :]:
        checkpoints = Checkpoints(directory, run=run)
        if stored:
            found = checkpoints.stored(step, part="params/")
        else:
            found = checkpoints.restore(abstract, step=step, part="params/")
        if found:
            if step is None:
                check_best(workdir, found.meta.get("best"))
            return found
    raise UserError(f"{workdir} has no checkpoint yet")


def check_best(workdir: str | os.PathLike, step: int | None) -> None:
    """Raise a UserError if the best parameters, those of `step`, are missing."""
    best = Checkpoints(f"{workdir}/best")
    if step is not None and not best.steps():
        raise UserError(f"{best.directory} is empty, and step {step} was the best")


def _with_padding(array: jax.Array, leaf: Any) -> jax.Array:
    """A leaf with the zeros that an old checkpoint lacks behind its vocabulary."""
    if array.shape == leaf.shape:
        return array
    more = [(0, leaf.shape[0] - len(array)), *[(0, 0)] * (array.ndim - 1)]
    sharding = getattr(leaf, "sharding", None)
    return jax.jit(lambda x: jnp.pad(x, more), out_shardings=sharding)(array)


def _context(remote: bool) -> ocp.Context:
    context = ocp.Context()
    if remote:
        context.array.saving.storage_options.chunk_byte_size = CHUNK
    context.array.saving.use_ocdbt = False  # a directory a leaf: damage names its leaf
    context.array.saving.use_zarr3 = True
    context.array.saving.use_compression = False  # floats hardly shrink
    return context


@contextmanager
def _without_closed_loops() -> Iterator[None]:
    """Hide the errors "Event loop is closed" that follow when one leaf fails."""
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
