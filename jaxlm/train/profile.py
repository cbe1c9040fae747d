"""--profile START:STOP → WORKDIR/profile: what host and devices did in those steps.

with profiling("100:103", workdir, start, last, log) as trace:
    trace(step)                    before each step, and at the end of the last
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
from etils import epath

from jaxlm.config.run import range_of
from jaxlm.files import copy_tree, place
from jaxlm.train.log import Log


@contextmanager
def profiling(
    asked: str, workdir: str | Path, start: int, last: int, log: Log
) -> Iterator[Callable[[int], None]]:
    """Yields a function of the step, which begins and ends the trace of the first host.

    Only steps of this invocation, from `start` to `last`, are traced: the same command
    resumes a run, and may come too late for a trace. A trace changes no result.
    """
    first, stop = range_of(asked, "profile") if asked else (0, 0)
    steps = range(max(first, start), min(stop, last))
    if asked and not steps:
        log.say(f"no profile: {asked} has no step of those from {start} to {last}")
    if jax.process_index():
        steps = range(0)

    with ExitStack() as stack:

        def trace(step: int) -> None:
            if steps and step == steps.start:
                log.flush()  # waits for the steps before
                # Python's own calls would be most of the trace.
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0
                here = stack.enter_context(tempfile.TemporaryDirectory())
                jax.profiler.start_trace(here, profiler_options=options)
                stack.callback(_stop, here, place(workdir) / "profile", log)
            elif steps and step == steps.stop:
                log.flush()
                stack.close()

        yield trace


def _stop(here: str, there: epath.Path, log: Log) -> None:
    """Move the trace to the workdir, which may be a bucket, and say how to read it."""
    try:
        jax.profiler.stop_trace()
        copy_tree(Path(here), there)
    except (OSError, RuntimeError) as error:
        log.say(f"warning: no profile: {error}")
        return
    log.say(
        f"the profile is in {there}; the speed of its steps includes the profiler's "
        f"own work. To read it: pip install xprof; xprof --port 8791 {there}"
    )
