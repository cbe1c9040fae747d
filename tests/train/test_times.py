"""Where the time of a run went, over all its invocations; what a hang leaves behind."""

import json
import os
import signal
import time

import pytest
from logs import metrics, opened
from runs import pretrain
from tiny import tiny

from jaxlm.train import times as times_module
from jaxlm.train.times import FIELDS, PARTS, Times, Watch, watching


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


def test_each_second_counts_once_and_what_is_inside_counts_for_itself():
    clock = Clock()
    times = Times(clock=clock, today=clock)
    clock.pass_(3)
    for _ in range(2):
        with times.during("data", then="step"):
            clock.pass_(1)
            with times.during("compile"):
                clock.pass_(10)
            clock.pass_(1)
        clock.pass_(20)
        with pytest.raises(OSError), times.during("save"):
            clock.pass_(5)
            raise OSError
    clock.pass_(7)
    found = {"step": 47, "data": 4, "compile": 20, "save": 10, "restart": 3}
    assert times.seconds() == {**dict.fromkeys(PARTS, 0.0), **found}
    assert times.said() == (
        "goodput 56.0% of 1:24; data 4.8%  compile 23.8%  save 11.9%  evaluate 0.0%  "
        "restart 3.6%"
    )


def test_lines_have_the_shares_since_the_line_before_and_the_goodput_of_the_run(
    tmp_path,
):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        for step in range(1, 9):
            with log.times.during("data", then="step"):
                clock.pass_(1 if step > 4 else 0)
            clock.pass_(3)
            log.defer(step, metrics(step))
    text = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = {r["step"]: r for r in map(json.loads, text)}
    assert all(set(FIELDS) <= record.keys() for record in records.values())
    # The figures of step 8 are fetched when the log closes, 5 steps after those of 3.
    assert records[8]["time_step"] == pytest.approx(12 / 16, abs=1e-4)
    assert records[8]["time_data"] == pytest.approx(4 / 16, abs=1e-4)
    assert records[8]["goodput"] == pytest.approx(24 / 28, abs=1e-4)


def run(tmp_path, start, steps, clock, *, save=None, ended=False):
    """Seconds of each part after an invocation: 2 s of start-up, 10 s a step."""
    times = Times(json.loads(save) if save else None, clock, clock)
    clock.pass_(2)
    records = {}
    for step in range(start, steps):
        with times.during("data", then="step"):
            pass
        clock.pass_(10)
        records[step + 1] = json.dumps(times.record(ended=ended and step + 1 == steps))
    return times, records


def test_a_killed_run_pays_for_the_steps_that_it_makes_again(tmp_path):
    clock = Clock()
    _, records = run(tmp_path, 0, 9, clock)
    clock.pass_(100)  # it was killed after step 9, and saved at step 5
    times, records = run(tmp_path, 5, 10, clock, save=records[5])
    lost = 4 * 10 + 100 + 2
    assert times.seconds()["restart"] == 2 + lost
    assert times.seconds()["step"] == 100
    assert times.fields()["goodput"] == round(100 / (100 + 2 + lost), 4)


def test_the_time_after_a_run_that_ended_is_not_its_own(tmp_path):
    clock = Clock()
    _, records = run(tmp_path, 0, 5, clock, ended=True)
    clock.pass_(1e6)
    times, _ = run(tmp_path, 5, 10, clock, save=records[5])
    assert times.seconds()["restart"] == 4 and times.seconds()["step"] == 100


def test_the_log_goes_on_from_the_times_of_the_step_that_was_restored(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        for step in range(1, 7):
            with log.times.during("data", then="step"):
                pass
            clock.pass_(10)
            log.defer(step, metrics(step))
            log.flush()
            if step in (2, 4):
                log.record_times()
    with opened(tmp_path, start=2, clock=clock) as log:
        seconds = log.times.seconds()
        assert seconds["step"] == 20 and 0 <= seconds["restart"] < 60
    kept = (tmp_path / "times.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in kept] == [0, 2]


# -- a hang, a heartbeat ---------------------------------------------------------


def warm(tmp_path, clock, said, seconds=10.0):
    """A watch of a loop that has made 6 steps of some seconds, and dispatched one."""
    log = opened(tmp_path, clock=clock)
    log.say = said.append
    for step in range(1, 8):
        with log.times.during("data", then="step"):
            pass
        log.defer(step, metrics(step))
        clock.pass_(seconds)
    return log, Watch(log, tmp_path)


def test_a_step_that_hangs_leaves_the_stacks_of_all_threads_once(tmp_path):
    clock, said = Clock(), []
    log, watch = warm(tmp_path, clock, said)
    clock.pass_(180)
    watch.look()
    assert not said
    clock.pass_(30)
    for _ in range(3):
        watch.look()
    (line,) = said
    assert line.startswith("warning: step 7 has taken 220 s so far, the median is 10 s")
    assert str(tmp_path / "host-0.log") in line
    stacks = (tmp_path / "host-0.log").read_text()
    assert "test_a_step_that_hangs" in stacks and stacks.count("step 7 has") == 1
    log.defer(8, metrics(8))  # step 7 is done; the next one hangs
    watch.look()
    clock.pass_(300)
    watch.look()
    assert len(said) == 2
    log.close()


def test_a_save_that_hangs_leaves_the_stacks_once(tmp_path):
    clock, said = Clock(), []
    log, watch = warm(tmp_path, clock, said)
    for _ in range(2):
        with log.pause("save"):
            for seconds in (50, 20, 900):  # usual, late, and told already
                clock.pass_(seconds)
                watch.look()
    assert len(said) == 2
    assert said[0].startswith("warning: saving after step 7 has taken 70 s so far: the")
    stacks = (tmp_path / "host-0.log").read_text()
    assert stacks.count("saving after") == 2 and "test_a_save_that_hangs" in stacks
    log.close()


def test_neither_fast_steps_nor_an_evaluation_are_a_hang(tmp_path):
    clock, said = Clock(), []
    log, watch = warm(tmp_path, clock, said, seconds=0.1)
    clock.pass_(55)
    watch.look()
    for part in ("evaluate", "compile"):
        with log.times.during(part):
            clock.pass_(9999)
            watch.look()
    assert not said
    log.close()


def test_before_a_median_is_known_only_a_long_wait_is_a_hang(tmp_path):
    clock, said = Clock(), []
    with opened(tmp_path, clock=clock) as log:
        log.say, watch = said.append, Watch(log, tmp_path)
        clock.pass_(9999)  # start-up
        with log.times.during("data", then="step"):
            clock.pass_(590)
            watch.look()
            assert not said
            clock.pass_(20)
            watch.look()
    assert len(said) == 1


def test_a_heartbeat_tells_a_slow_run_from_one_that_hangs(tmp_path, monkeypatch):
    clock, said = Clock(), []
    log, watch = warm(tmp_path, clock, said)
    watch.look()
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["step"], beat["last"], beat["doing"]) == (6, 40, "step")
    assert beat["process"] == os.getpid() and beat["time"][-1] == "Z"
    assert (beat["median_step_seconds"], beat["seconds_in_step"]) == (10, 10)
    clock.pass_(600)
    watch.look()  # too soon for another one
    assert json.loads((tmp_path / "heartbeat.json").read_text()) == beat
    monkeypatch.setattr(times_module, "BEAT", 0.0)
    watch.look()
    assert not beat["hangs"]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["hangs"]
    log.close()


def test_a_heartbeat_that_cannot_be_written_is_tried_again(tmp_path):
    said = []
    log, watch = warm(tmp_path, Clock(), said)
    file = tmp_path / "heartbeat.json"
    file.mkdir()
    watch.beat("step")
    watch.beat("step")
    assert len(said) == 1 and "heartbeat.json cannot be written, for now" in said[0]
    file.rmdir()
    watch.beat("step")
    assert json.loads(file.read_text())["doing"] == "step"
    log.close()


def test_sigquit_writes_stacks_and_the_run_goes_on(tmp_path, capfd):
    with opened(tmp_path) as log, watching(log, tmp_path):
        os.kill(os.getpid(), signal.SIGQUIT)
        deadline, said = time.monotonic() + 10, ""
        while "test_sigquit" not in said:
            said += capfd.readouterr().err
            assert time.monotonic() < deadline, said
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert beat["doing"] == "stopped"


def test_a_run_ends_with_its_goodput_over_all_invocations(corpus, tmp_path, capsys):
    for stop in (4, 0):
        pretrain(tiny(stop=stop, eval_every=4), corpus, tmp_path)
    said = capsys.readouterr().out.splitlines()
    found = [line for line in said if line.startswith("goodput ")]
    assert len(found) == 2 and said[-1] == found[-1]
    saved = [json.loads(x) for x in (tmp_path / "times.jsonl").read_text().splitlines()]
    assert [each["step"] for each in saved] == sorted(each["step"] for each in saved)
    last = saved[-1]
    assert last["ended"] and last["step"] == tiny().steps
    assert all(last["seconds"][part] > 0 for part in PARTS)
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert beat["doing"] == "finished"
