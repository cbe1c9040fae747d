"""(step, state, meta) in → `checkpoints/<step>/` → the same state on any mesh out.

    checkpoints = Checkpoints(workdir, keep=2, keep_every=10_000)
    orphans = checkpoints.open()               what killed saves left, removed
    restored = checkpoints.restore(abstract)   None where nothing was saved yet
    checkpoints.save(step, state, meta)        asynchronous: the state may be donated
    checkpoints.check()                        raises if a save failed; never waits
    checkpoints.close()                        waits for the last one

A checkpoint is a zarr array a leaf under `state/<path of the leaf>` and a manifest: format
version, step, the digest of every leaf, and `meta`, any JSON of the caller's. Orbax
writes both and makes the step appear in one rename; the digests are recomputed after a
restore, since Orbax alone restores flipped bits in silence. This is the only file that
knows Orbax. Next: `train/loop.py`, and `open.py` for reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxlm.digests import LeafDigest, digest
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError

FORMAT = 1  # of the manifest; raised when older code could misread a checkpoint
_STATE = "state"
_ORPHAN = (".orbax-checkpoint-tmp", ".deleted")

# What Orbax warns of at each save and restore although all is well: no OCDBT files
# (none are wanted), and no zarr files where it looks for them (they lie deeper).
_NOISE = ("Skipping merge of OCDBT", "TensorStore data files not found")
logging.getLogger("absl").addFilter(
    lambda record: not any(noise in record.getMessage() for noise in _NOISE)
)


class Unsound(UserError):
    """A checkpoint that does not hold what was saved."""


class Manifest(NamedTuple):
    """What a checkpoint says about itself."""

    step: int
    digests: dict[str, LeafDigest]
    meta: dict[str, Any]


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

        Only for the process that trains here (see `lock`): a reader would remove the
        save that is under way.

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
                f"cannot write checkpoints to {self.directory}: {_line(error)}"
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
        manifest = {
            "format": FORMAT,
            "step": step,
            "digests": {path: str(each) for path, each in digests.items()},
            "meta": dict(meta),
        }
        manifest["sha256"] = _sha256_of(manifest)
        try:
            with _context():
                response = ocp.save_async(
                    self.directory / str(step),
                    flat,
                    checkpointable_name=_STATE,
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
        try:
            response.result()
        except Exception as error:
            raise self._failed(step, error) from error
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
            f"{_line(error)}; {rest}"
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

    def manifest(self, step: int) -> Manifest:
        """The manifest of a completed step, checked against its own hash.

        Raises:
            Unsound: it is missing or changed.
            UserError: it is of another format version.
        """
        path = self.directory / str(step) / "_CHECKPOINT_METADATA"
        try:
            data = json.loads(path.read_text())["custom_metadata"]
            version, expected = data["format"], data.pop("sha256")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unsound(f"{path} is not readable: {_line(error)}") from error
        if _sha256_of(data) != expected:
            raise Unsound(f"{path} was changed after it was written")
        if version != FORMAT:
            raise UserError(
                f"{path.parent} has format {version}; this jaxlm reads {FORMAT}"
            )
        digests = {p: LeafDigest.parse(text) for p, text in data["digests"].items()}
        return Manifest(data["step"], digests, data["meta"])

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
            part: path prefix, for example "params/": `abstract` holds only the leaves
                under it, and no others are read.
            fallback: where the newest is not sound, put it aside (`<step>.unsound`) and
                take the one before, and so on.

        Raises:
            Unsound: a leaf's digest does not match or it cannot be read; names the leaf.
            UserError: leaves are missing, unknown or of another shape: both sides.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                have = ", ".join(map(str, steps)) or "none"
                raise UserError(
                    f"no checkpoint of step {step} in {self.directory}: {have}"
                )
            steps = [step]
        notes: list[str] = []
        for each in reversed(steps):
            try:
                return self._restore(each, abstract, part, notes)
            except Unsound as error:
                if not fallback:
                    older = [s for s in steps if s < each]
                    remedy = (
                        f"--fallback takes step {older[-1]} instead"
                        if older
                        else "there is no older one"
                    )
                    raise Unsound(f"{error}; {remedy}") from error
                notes.append(str(error))
                self._put_aside(each)
        if notes:
            raise Unsound("no sound checkpoint is left:\n  " + "\n  ".join(notes))
        return None

    def _restore(
        self, step: int, abstract: Any, part: str, notes: list[str]
    ) -> Restored:
        path = self.directory / str(step)
        manifest = self.manifest(step)
        stored = {p: d for p, d in manifest.digests.items() if p.startswith(part)}
        wanted = {p: _placed(leaf) for p, leaf in leaves(abstract)}
        problems = _differences(wanted, stored)
        if problems:
            raise UserError(f"{path} does not fit this run:\n" + "\n".join(problems))
        flat = _load(path, wanted)
        digests = digest(flat)
        for p, each in digests.items():
            if each != stored[p]:
                raise Unsound(
                    f"{path} is damaged: leaf {p} has digest {each.lanes}, "
                    f"{stored[p].lanes} was saved"
                )
        state = map_with_path(lambda p, _: flat[p], abstract)
        return Restored(step, state, digests, manifest.meta, notes)

    def _put_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            path = self.directory / str(step)
            path.rename(self.directory / f"{step}.unsound")


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


def _load(path: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The leaves, or `Unsound` with the name of one that cannot be read."""

    def load(part: dict[str, Any]) -> dict[str, Any]:
        with _context():
            return ocp.load(path, part, checkpointable_name=_STATE)

    try:
        return load(wanted)
    except Exception as error:
        # The library's error may name a file or nothing at all: try leaf by leaf.
        for name, leaf in wanted.items():
            try:
                load({name: leaf})
            except Exception as cause:
                raise Unsound(
                    f"{path} is damaged: leaf {name} cannot be read: {_line(cause)}"
                ) from cause
        raise Unsound(f"{path} cannot be read: {_line(error)}") from error


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _differences(
    wanted: Mapping[str, Any], stored: Mapping[str, LeafDigest]
) -> list[str]:
    """One line a leaf that is on one side only (−, +) or not the same on both (≠)."""
    lines = []
    for path in sorted({*wanted, *stored}):
        here = path in wanted and f"{wanted[path].dtype}{list(wanted[path].shape)}"
        there = path in stored and f"{stored[path].dtype}{list(stored[path].shape)}"
        if not there:
            lines.append(f"  - {path}  expected {here}, not in the checkpoint")
        elif not here:
            lines.append(f"  + {path}  {there} in the checkpoint, not expected")
        elif here != there:
            lines.append(f"  ≠ {path}  expected {here}, the checkpoint has {there}")
    return lines


def _sha256_of(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


@contextlib.contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Hold a local run directory alone; the kernel lets go when the process ends.

    Raises:
        UserError: another process holds it (with its id), or it cannot be written.
    """
    if str(workdir).startswith("gs://") or jax.process_index() != 0:
        yield
        return
    path = Path(workdir) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {_line(error)}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            raise UserError(
                f"{workdir} is in use by {holder or 'another process'}"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0
        )
        yield
    finally:
        os.close(handle)
