"""What a person sees of a run: a bar on a terminal, plain lines else."""

import fcntl
import io
import math
import os
import re
import select
import struct
import subprocess
import sys
import termios

import jax
import pytest
from logs import STEP, metrics, opened

from jaxlm.metrics import Tokens
from jaxlm.train.screen import clock, evaluated, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "seconds, text",
    [
        (7.0, "0:07"),
        (187.0, "3:07"),
        (3725.0, "1:02:05"),
        (266_400.0, "3d 2:00:00"),
        (math.nan, "–"),
    ],
)
def test_times_as_people_read_them(seconds, text):
    assert clock(seconds) == text


def test_figures_as_people_read_them():
    assert shown("mlm_accuracy", 0.27149) == "27.1%"
    assert shown("tokens_per_second", 41210.4) == "41,210"
    assert shown("loss", 4.31234) == "4.312"
    assert shown("loss", math.nan) == shown("loss", None) == "–"


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    with opened(tmp_path, stream=stream, last=4) as log:
        log.say("resuming at step 0")
        for step in range(1, 5):
            log.defer(step, metrics(step, skipped=step // 4))
        log.evaluation({"mlm_accuracy": 0.5})
    text = stream.getvalue().splitlines()
    assert text[0] == "resuming at step 0"
    assert text[1].startswith("step 1/4  loss ") and "  mlm " in text[1]
    assert "  skipped 1  " in text[2]
    assert text[3] == "step 4  evaluation  mlm accuracy 50.0%"
    assert "\x1b" not in stream.getvalue() and len(text) == 4


def test_held_out_figures_stand_beside_their_baselines():
    figures = {"loss": 7.0, "mlm_loss": 6.3, "mlm_accuracy": 0.2, "targets": 90.0}
    figures |= {"unigram_loss": 6.5, "unigram_accuracy": 0.1, "lm_perplexity": 20.0}
    assert evaluated(figures, [Tokens(name="mlm"), Tokens(name="lm")]) == [
        "loss 7",
        "mlm loss 6.3 (unigram 6.5)",
        "mlm accuracy 20.0% (unigram 10.0%)",
        "lm perplexity 20",
    ]


_CONTROL = r"\x1b\[[0-9;?]*[a-zA-Z]"
# Shows a step, and prints a line, each time that it is given a line.
_SHOWS = """
import sys
from jaxlm.train.screen import Screen
screen = Screen(sys.stdout, 0, 20000)
record = {"loss": 4.3, "mlm_accuracy": .3, "goodput": .97, "mfu": .1, "skipped": 0}
for step in range(19990, 19995):
    sys.stdin.readline()
    screen.show({**record, "step": step, "tokens_per_second": 41210.}, 7, line=True)
    screen.evaluation(step, {f"a{i}_loss": 0.5 for i in range(20)}, ())
sys.stdin.readline()
"""


def test_a_terminal_that_is_resized_during_a_run():
    """Every line fits the width of its time, with the whole count of steps."""
    ours, theirs = os.openpty()
    flags = termios.tcgetattr(theirs)
    flags[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, flags)
    gone = {"COLUMNS", "LINES", "NO_COLOR", "TERM"}
    env = {name: value for name, value in os.environ.items() if name not in gone}
    env |= {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SHOWS],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    for step, width in enumerate((100, 60, 41, 25, 140), 19_990):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
        os.write(ours, b"\n")
        drawn = rf"step {step}  evaluation.*[\r\n](step {step}/20000 .*)\nloss 4.3  "
        raw, found = b"", None
        while not found:
            assert select.select([ours], [], [], 60)[0], raw
            raw += os.read(ours, 65536)
            seen = re.sub(_CONTROL, "", raw.decode(errors="ignore"))
            found = re.search(drawn, seen.replace("\r\n", "\n"), re.DOTALL)
        lines = [line.rpartition("\r")[2] for line in found[0].split("\n")]
        assert max(map(len, lines)) <= width, (width, lines)
        bar = lines[-2].rstrip()
        assert re.match(r"step \d+/20000 ━+", bar) and len(bar) <= 60
        assert ("41,210 tokens/s  ETA 0:07" in bar) == (width >= 60), bar
    os.write(ours, b"\n")
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_on_a_terminal(tmp_path, monkeypatch, width):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    with opened(tmp_path, stream=stream, last=8) as log:
        with log.compiling(STEP, tokens=512.0, flops=1e9):
            pass
        for step in range(1, 9):
            log.defer(step, metrics(step))
        log.say("a line with [brackets] and 学习")
        log.evaluation({f"a{i}_loss": 0.5 for i in range(20)})
    screen = stream.getvalue()
    assert "\x1b[" in screen and "step 8/8" not in screen
    assert "a line with [brackets] and 学习\n" in screen
    for i in range(20):  # none is broken in two
        assert f" a{i} loss 0.5" in screen
    plain = re.sub(_CONTROL, "", screen)
    bar, below = plain.rstrip().splitlines()[-2:]
    assert bar.startswith("step 8/8 ━") and "tokens/s" in bar and "ETA 0:00" in bar
    assert below.startswith("loss ") and "mlm " in below
    assert len(bar) <= width and len(below) <= width


def test_other_processes_write_and_print_nothing_but_get_the_figures(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    stream = Terminal()
    with opened(tmp_path / "run", stream=stream) as log:
        log.say("hello")
        with log.compiling(STEP, tokens=512.0):
            pass
        log.defer(1, metrics(1))
        assert log.defer(2, metrics(2))["grad_norm"] == 1
        log.evaluation({"loss": 1.0})
        assert log.carry()["sums"]
    assert stream.getvalue() == "" and not (tmp_path / "run").exists()
