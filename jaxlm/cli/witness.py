"""A process beside each host of a multi-host run: it logs native code's output.

    python witness.py FILE HOST ADDRESS < what the host's native code prints

If a host is lost, the coordination service of JAX ends the other processes from C++,
with a stack trace that names no cause. No Python code of theirs runs then, so this
process, which lives on, says in one line what happened.
"""

import os
import re
import sys

_FATAL = b"Terminating process because the JAX distributed service"
_ABSENT = rb"Wait_for_all_tasks_to_register.*?timed out task names:\s*((?:\d+\s+)+)"
_UNREACHED = b"CoordinationService/RegisterTask"
_SILENT = rb"stopped sending heartbeats\):\s*((?:\d+\s+)+)"


def main(path: str, host: str, address: str) -> None:
    """Copy standard input to a file; after its end, explain a fatal error."""
    seen = b""
    with open(path, "ab", buffering=0) as file:
        while text := os.read(0, 1 << 16):
            file.write(text)
            seen = (seen + text)[-(1 << 20) :]
    if absent := re.search(_ABSENT, seen, re.DOTALL):
        others = ", ".join(sorted(absent[1].decode().split(), key=int))
        said = f"host {host} has ended, because host {others} did not join in time"
        print(f"jaxlm: {said}: start the same command on all hosts", file=sys.stderr)
    elif _FATAL in seen and _UNREACHED in seen:
        said = f"host {host} has ended, because host 0 did not answer at {address}"
        print(f"jaxlm: {said}: start the same command on all hosts", file=sys.stderr)
    elif _FATAL in seen:
        named = re.search(_SILENT, seen)
        others = ", ".join(named[1].decode().split()) if named else "0"
        lost = f"host {host} has ended, because host {others} was lost: it crashed, "
        remedy = "the same command on all hosts resumes"
        log = f"its own output says why; {path} has the stack"
        print(
            f"jaxlm: {lost}was killed or stopped answering; {remedy}; {log}",
            file=sys.stderr,
        )
    elif not os.path.getsize(path):
        os.unlink(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
