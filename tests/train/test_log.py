"""What a run writes: exact across resumes, never waiting, never in the way."""

import io
import json
import math

import jax
import numpy as np
import pytest
from logs import STEP, lines, metrics, opened
from runs import SPEED

from jaxlm.devices import peak_flops
from jaxlm.metrics import Mean
from jaxlm.train.screen import about


class Clock:
    """A clock that only goes when told to."""

    def __init__(self):
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


# -- what is fetched, and when ---------------------------------------------------


class Unfinished:
    """A device value that must not be looked at before its step is done."""

    def __init__(self, value):
        self.value, self.done = value, False

    def __array__(self, dtype=None, copy=None):
        assert self.done, "the host waited for a step that was just dispatched"
        return np.asarray(self.value, dtype)


def test_defer_never_waits_for_the_step_just_dispatched(tmp_path):
    log = opened(tmp_path)
    before = None
    for step in range(1, 6):
        value = Unfinished(np.float32(step))
        host = log.defer(step, {"grad_norm": value, "loss": Mean(value, value)})
        if before is None:
            assert host is None
        else:
            assert host == {"step": step - 1, "grad_norm": step - 1, "loss": 1.0}
        before, value.done = value, True
    assert log.flush() == {"step": 5, "grad_norm": 5.0, "loss": 1.0}
    assert log.flush() is None
    log.close()


# -- metrics.jsonl ---------------------------------------------------------------


def test_a_line_has_the_contracts_fields_and_sums_divided_once(tmp_path):
    with opened(tmp_path) as log:
        for step in range(1, 9):
            log.defer(step, metrics(step, skipped=int(step > 6)))
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [1, 4, 8]
    for line in written:
        contract = "step loss learning_rate grad_norm skipped tokens_per_second mfu"
        assert set(contract.split()) <= line.keys()
    last = written[-1]
    assert (last["grad_norm"], last["learning_rate"], last["skipped"]) == (8, 0.25, 1)
    for name in ("loss", "mlm_loss", "nsp_loss"):
        sums = [metrics(step)[name] for step in range(5, 9)]
        mean = sum(float(s.total) for s in sums) / sum(float(s.weight) for s in sums)
        np.testing.assert_allclose(last[name], mean, rtol=1e-12)


@pytest.mark.parametrize("stop", [1, 4, 6, 7])
def test_a_resumed_run_writes_the_lines_of_an_uninterrupted_one(tmp_path, stop):
    def train(workdir, start, last, carry=None, die=None):
        """In the loop's order: save, evaluate, step. Dies right after it dispatched."""
        saved = {}
        with opened(workdir, start=start, last=last, carry=carry) as log:
            for step in range(start, last + 1):
                saved[step] = json.loads(json.dumps(log.carry()))
                if step and step % 6 == 0:
                    log.evaluation({"mlm_loss": step / 7})
                if step == last:
                    break
                log.defer(step + 1, metrics(step + 1))
                if step == die:
                    break
        return saved

    train(tmp_path / "whole", 0, 16)
    saved = train(tmp_path / "parts", 0, 16, die=stop + 3)  # its checkpoint: at `stop`
    with (tmp_path / "parts/metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')  # torn by the kill
    train(tmp_path / "parts", stop, 16, carry=saved[stop])

    def comparable(workdir):
        return [
            {k: v for k, v in line.items() if k not in SPEED} for line in lines(workdir)
        ]

    whole = comparable(tmp_path / "whole")
    assert comparable(tmp_path / "parts") == whole
    assert [line["step"] for line in whole] == [1, 4, 6, 8, 12, 16]
    assert whole[2]["eval_mlm_loss"] == 6 / 7 and "loss" in whole[2]


def test_an_evaluation_joins_the_line_of_its_step_and_starts_no_new_sums(tmp_path):
    with opened(tmp_path) as log:
        for step in range(1, 9):
            log.defer(step, metrics(step))
            if step in (4, 6):
                log.evaluation({"loss": 1.5, "accuracy": float("inf")})
    with opened(tmp_path / "plain") as log:
        for step in range(1, 9):
            log.defer(step, metrics(step))
    with_, without = lines(tmp_path), lines(tmp_path / "plain")
    assert [line["step"] for line in with_] == [1, 4, 6, 8]
    assert with_[1]["eval_loss"] == 1.5 and with_[1]["eval_accuracy"] is None
    assert with_[2]["eval_loss"] == 1.5 and with_[2]["grad_norm"] == 6
    assert with_[3]["loss"] == without[2]["loss"]


def test_an_evaluation_before_any_step_has_a_line(tmp_path):
    with opened(tmp_path, start=0, last=0) as log:
        log.evaluation({"loss": 9.0})
    (line,) = lines(tmp_path)
    assert line["step"] == 0 and line["eval_loss"] == 9.0 and line["loss"] is None


def test_a_run_that_is_done_writes_nothing_more(tmp_path):
    with opened(tmp_path, last=8) as log:
        for step in range(1, 9):
            log.defer(step, metrics(step))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with opened(tmp_path, start=8, last=8) as log:
        log.carry()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_last_step_has_a_line_although_it_is_not_due(tmp_path):
    log = opened(tmp_path, last=6)
    assert [step for step in range(1, 7) if log.wants(step)] == [1, 4, 6]
    with log.compiling(STEP, tokens=512.0):
        pass
    for step in range(1, 7):
        text = {"batch_sha256": "ab"} if log.wants(step) else {}
        log.defer(step, metrics(step) | text)
    log.close()
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [1, 4, 6]
    assert [line["batch_sha256"] for line in written] == ["ab"] * 3


def test_a_step_without_a_finite_loss_poisons_no_line(tmp_path):
    with opened(tmp_path) as log:
        for step in range(1, 5):
            bad = step == 3
            host = log.defer(
                step, metrics(step, skipped=int(bad), loss=math.nan if bad else 12.0)
            )
            if step == 4:
                assert math.isnan(host["mlm_loss"]) and host["skipped"] == 1
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    sums = [metrics(step, loss=12.0)["mlm_loss"].weight for step in (2, 4)]
    np.testing.assert_allclose(lines(tmp_path)[-1]["mlm_loss"], 24.0 / float(sum(sums)))


# -- rates -----------------------------------------------------------------------


def test_rates_leave_out_compiling_and_pauses_and_the_eta_does_not(tmp_path):
    clock, stream = Clock(), io.StringIO()
    log = opened(tmp_path, last=20, clock=clock, stream=stream)
    with log.compiling(STEP, tokens=512.0, flops=3e9):
        clock.now += 100
    for step in range(1, 10):
        log.defer(step, metrics(step))
        clock.now += 2  # a step takes two seconds
        if step == 6:
            with log.pause("save"):
                clock.now += 30
    log.close()
    third = lines(tmp_path)[2]
    assert third["step"] == 8
    # Steps 5 to 8 in 8 seconds; tokens 8 × 64 each.
    np.testing.assert_allclose(third["tokens_per_second"], 4 * 512 / 8)
    peak = sum(peak_flops(each, "float32") for each in jax.devices())
    np.testing.assert_allclose(third["mfu"], 3e9 / 2 / peak)
    shown = stream.getvalue().splitlines()
    assert shown[0] == "compiled the step for 8 × 64 tokens in 100.0 s"
    # 3 steps in 6 seconds: 17 more take 34.
    assert "about 30 s here to step 20, by the first 3 steps" in shown
    # 8 steps in 46 seconds, pause and all: 12 more take 69.
    last = next(line for line in shown if line.startswith("step 8/20  loss "))
    assert last.endswith("ETA 1:09")


def test_seconds_are_said_as_people_say_them():
    said = {40.0: "40 s", 89.0: "90 s", 250.0: "4.2 min", 9e3: "2.5 hours"}
    said |= {1e6: "12 days"}
    assert {seconds: about(seconds) for seconds in said} == said


def test_a_new_phase_has_rates_of_its_own(tmp_path):
    clock = Clock()
    log = opened(tmp_path, clock=clock, every=2)
    for part in range(2):
        with log.compiling(STEP, tokens=512.0):
            clock.now += 50
        for step in range(4 * part + 1, 4 * part + 5):
            log.defer(step, metrics(step))
            clock.now += 1 + 3 * part
        log.flush()
    log.close()
    speeds = {line["step"]: line["tokens_per_second"] for line in lines(tmp_path)}
    np.testing.assert_allclose([speeds[4], speeds[8]], [512 / 1, 512 / 4], rtol=0.01)
    assert lines(tmp_path)[-1]["mfu"] is None  # its FLOPs were not given


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_log(tmp_path):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("device lost")

    with pytest.raises(KeyError, match="the run's"), opened(tmp_path) as log:
        log.defer(1, {"grad_norm": Broken()})
        raise KeyError("the run's")
    with pytest.raises(RuntimeError, match="device lost"), opened(tmp_path) as log:
        log.defer(1, {"grad_norm": Broken()})
