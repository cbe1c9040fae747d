"""A signal ends any verb in one line, and leaves nothing."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.commands import TINY

import jaxlm
from jaxlm.signals import ENDING
from jaxlm.types import INTERRUPTED

SIGNALLED = """
import gc, signal, sys
from pathlib import Path
import jaxlm.cli
from jaxlm.files import replacing, temporary

def run_show(words):
    with temporary(Path("scratch")) as directory, replacing(Path("out")) as file:
        directory.mkdir()
        file.write(b"half")
        # In a callback an exception would be lost.
        gc.callbacks.append(lambda *_: signal.raise_signal(int(words[0])))
        gc.collect()

jaxlm.cli.importlib.import_module = lambda _: sys.modules["__main__"]
sys.exit(jaxlm.cli.main())
"""


@pytest.mark.parametrize("how", ENDING)
def test_a_signal_ends_a_verb_anywhere_in_one_line_and_leaves_nothing(how, tmp_path):
    command = [sys.executable, "-c", SIGNALLED, "show", str(int(how))]
    environment = {**os.environ, "PYTHONPATH": str(Path(jaxlm.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "jaxlm: interrupted; run the same command to resume\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ENDING)
def test_a_signal_ends_the_preparation_that_pretrain_begins_with(how, tmp_path):
    """It goes to all processes, as Ctrl-C in a terminal and a scheduler's kill do."""
    command = [sys.executable, "-m", "jaxlm", "pretrain", "bert_tiny", *TINY]
    command += ["--text", "shipped:austen", "--workdir", str(tmp_path / "run")]
    with subprocess.Popen(
        [*command, "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        begun = tmp_path / "run/corpus/.partial/tokenizer"
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, how)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    said = [line for line in error.splitlines() if " MB/s" not in line]
    assert not out and said == ["jaxlm: interrupted; run the same command to resume"]


LOST_TERMINAL = """
import os, pty, sys

process, terminal = pty.fork()
if not process:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
while b"ETA" not in said:  # a line of the training loop
    said += os.read(terminal, 4096)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.parametrize("shell", [False, True])
def test_a_run_that_loses_its_terminal_saves_and_ends(shell, tmp_path):
    """As when an ssh connection breaks; a shell in between passes the signal on."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "jaxlm", "pretrain", "bert_tiny", *TINY]
    command += ["--text", "shipped:austen", "--steps", "9000", "--workdir", str(run)]
    command += ["--save_every", "9000", "--eval_every", "9000"]
    if shell:
        command = ["bash", "-c", f"{shlex.join(command)}; true"]
    command = [sys.executable, "-c", LOST_TERMINAL, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    status = -signal.SIGHUP if shell else INTERRUPTED
    assert (int(done.stdout), done.stderr) == (status, "")
    until = time.monotonic() + 60  # without its shell, nobody waits for it
    while not list((run / "checkpoints").glob("[0-9]*")):
        assert time.monotonic() < until
        time.sleep(0.1)


HALF_A_POOL = """
import signal, sys
from multiprocessing import resource_tracker
from jaxlm.cli.runtime import end_on_signals
from jaxlm.text import units

def register(name, kind, register=resource_tracker.register):
    register(name, kind)
    signal.raise_signal(signal.SIGINT)  # the semaphore exists, but no finalizer of it

end_on_signals(75)
resource_tracker.register = register
list(units.tokenise_all([], None, None, 2))
"""


def test_a_signal_while_a_pool_is_made_leaks_no_semaphore():
    command = [sys.executable, "-c", HALF_A_POOL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 75
    assert done.stderr == "jaxlm: interrupted; run the same command to resume\n"


READ = """
import sys
import jaxlm.cli

def run_show(words):
    print("a line")

run_pretrain = run_show
jaxlm.cli.importlib.import_module = lambda _: sys.modules["__main__"]
sys.exit(jaxlm.cli.main())
"""


@pytest.mark.parametrize("way", [os.pipe, os.openpty])
@pytest.mark.parametrize("verb, status", [("show", 0), ("pretrain", 75)])
def test_a_reader_that_leaves_ends_a_verb_and_no_run_is_called_finished(
    verb, status, way
):
    """As in `jaxlm show … | head -1`, or disowned by a shell that is closed."""
    reader, writer = way()
    command = [sys.executable, "-c", READ, verb]
    with subprocess.Popen(
        command, stdout=writer, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writer)
        os.close(reader)
        assert process.stderr.read() == ""
    assert process.returncode == status
