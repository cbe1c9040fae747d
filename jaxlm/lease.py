"""The lock of a directory on `gs://`: an object that its holder renews.

The object says who holds the directory, and until when. It is written only if it is
still as it was read (a precondition on its generation), so one of two processes gets
it. The lock of a dead process runs out.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from jaxlm.files import place
from jaxlm.types import UserError

LIMIT = 60.0  # seconds that a lock holds without being renewed
_RENEWALS = 4  # in that time
# A request is given up after 15 seconds, for the next renewal to be tried, and for a
# process to end where the bucket is not reached. TensorStore's usual 32: 15 minutes.
_RETRIES = {"gcs_request_retries": {"max_retries": 4, "max_delay": "8s"}}


@contextlib.contextmanager
def leased(directory: str) -> Iterator[None]:
    """Hold the lock of a directory on `gs://`; UserError if another process does.

    A lock that is not renewed is waited for and taken over.
    """
    import tensorstore as ts

    try:
        context = ts.Context(_RETRIES)
        store = ts.KvStore.open(f"{place(directory)}/", context=context).result()
        generation = _take(store, directory)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{directory} cannot be locked: {reason}") from error
    ended = threading.Event()

    def renew() -> None:
        nonlocal generation
        while not ended.wait(LIMIT / _RENEWALS):
            with contextlib.suppress(ValueError):  # no connection: later, perhaps
                written = _write(store, generation, _record())
                if not written:
                    # Both would save the same steps: nothing more may be written here.
                    _say(f"{directory} was taken over by another process")
                    os._exit(1)
                generation = written

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(ValueError):  # no connection: it ends by itself
            _write(store, generation, None)


def _take(store: Any, directory: str) -> bytes:
    """Take the lock; returns its generation."""
    seen = b""
    while True:
        found = store.read(".lock").result()
        before = found.stamp.generation
        holder, until = _holder(found.value)
        left, at = until - time.time(), time.strftime("%H:%M:%S", time.gmtime(until))
        if left <= 0:
            if generation := _write(store, before, _record()):
                if found.value:
                    _say(f"{directory}: the lock of {holder} ended at {at} UTC, taken")
                return generation
            continue  # another process was faster
        this = f"{directory} is in use by {holder}, whose lock ends at {at} UTC"
        if seen not in (b"", before):
            raise UserError(f"{this} and is renewed")
        if not seen:
            _say(f"{this}; waiting for it")
        seen = before
        time.sleep(min(left, LIMIT / _RENEWALS / 2))


def _holder(value: bytes) -> tuple[str, float]:
    """(who holds a lock, until when)."""
    try:
        content = json.loads(value)
        return str(content["holder"]), float(content["until"])
    except (ValueError, KeyError, TypeError):
        return "another process", 0.0


def _record() -> bytes:
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    return json.dumps({"holder": holder, "until": time.time() + LIMIT}).encode()


def _write(store: Any, generation: bytes, value: bytes | None) -> bytes:
    """The generation of the new lock (None: delete it); empty if another wrote it."""
    written = store.write(".lock", value, if_equal=generation).result().generation
    if value and not written:
        # Or it is ours: the answer was lost, and the request sent again.
        found = store.read(".lock").result()
        written = found.stamp.generation if found.value == value else b""
    return written


def _say(text: str) -> None:
    print(f"jaxlm: {text}", file=sys.stderr, flush=True)
