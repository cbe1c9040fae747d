"""Two hosts are one run: a signal to either stops both after the same step."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from jobs import finish, hosts, wait_for
from roads import without_size

from jaxlm.train.workdir import lock

TINY = """
    --model.vocab_size 600 --model.num_layers 1 --model.num_heads 2 --model.d_model 16
    --model.d_ff 32 --model.dropout 0 --model.nsp false --batch 8 --length 32
    --predictions 5 --log.tensorboard false --steps 100000 --save_every 2 --eval_every 0
""".split()  # noqa: SIM905


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_signal_to_one_host_stops_both_and_the_run_goes_on_bitwise(
    tmp_path: Path, corpus_directory
):
    pretrain = ["pretrain", "bert_tiny", "--corpus", str(tmp_path / "corpus"), *TINY]
    cut, whole = (["--workdir", str(tmp_path / name)] for name in ("cut", "whole"))
    text = Path(corpus_directory).parent / "austen.txt"
    processes = hosts([*pretrain, *cut, "--text", str(text), "--processes", "1"])
    wait_for(tmp_path / "cut/checkpoints/2", processes)
    processes[1].send_signal(signal.SIGTERM)  # not the one that writes
    ended = finish(processes)
    assert [status for status, *_ in ended] == [75, 75], ended
    assert ended[1][1:] == ("", "")  # it says to its log what the first host prints
    said = [ended[0][2], (tmp_path / "cut/host-1.log").read_text()]
    steps = {re.search(r"stopped at step (\d+) after saving", each)[1] for each in said}
    assert len(steps) == 1, ended
    (step,) = map(int, steps)
    saved = {int(each.name) for each in (tmp_path / "cut/checkpoints").iterdir()}
    assert max(saved) == step > 2

    stop = ["--stop", str(step + 2)]
    fill = ["fill", str(tmp_path / "cut"), "She[MASK]was", "--top_k", "1"]
    ended = finish(hosts([*pretrain, *cut, *stop], [*pretrain, *whole, *stop], fill))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert f"resuming at step {step}\n" in ended[0][1]
    logged = (tmp_path / name / "host-1.log" for name in ("cut", "whole"))
    outputs = [
        ended[0][1],
        "".join(each.read_text() for each in logged if each.exists()),
    ]
    states = [re.findall("state sha256 .*", output) for output in outputs]
    assert [len(each) for each in states] == [2, 3]
    states[1].pop(0)  # at the cut
    assert len({state for each in states for state in each}) == 1
    assert ended[0][1].splitlines()[-1].startswith("[MASK] 1: ")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_goes_on_with_more_hosts_and_with_fewer(tmp_path: Path, corpus_directory):
    """2 → 4 → 1: the state that was saved, and the batches of a run of one host."""
    pretrain = ["pretrain", "bert_tiny", "--corpus", corpus_directory, *TINY]
    pretrain += ["--log.every", "1", "--log.batches", "true", "--workdir"]
    moved, whole = str(tmp_path / "moved"), str(tmp_path / "whole")

    def states(count: int, *stops: int, to: str = moved) -> list[str]:
        words = [[*pretrain, to, "--stop", str(stop)] for stop in stops]
        ended = finish(hosts(*words, count=count))
        assert [status for status, *_ in ended] == [0] * count, ended
        found = [re.findall("state sha256 (.*)", output) for _, output, _ in ended]
        assert all(each == found[0] for each in found if each)
        return found[0]

    # Each begins with nothing left to train: its digest is of what it has restored.
    (two,) = states(2, 4)
    four = states(4, 4, 8)
    one = states(1, 8, 12)
    assert [two, four[1]] == [four[0], one[0]]
    states(1, 12, to=whole)
    moved, whole = (
        [
            json.loads(line)
            for line in Path(each, "metrics.jsonl").read_text().splitlines()
        ]
        for each in (moved, whole)
    )
    assert len(moved) == len(whole) == 12
    assert [r["batch_sha256"] for r in moved] == [r["batch_sha256"] for r in whole]
    for here, there in zip(moved, whole, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)


# The second host alone.
OTHER_SETTING = """
import os, sys
if os.environ["JAX_PROCESS_ID"] == "1":
    sys.argv += ["--optim.peak", "0.5"]
"""
BAD_STEP = """
import jax
from jaxlm.train.log import Log
def defer(self, step, metrics, before=Log.defer):
    if step == 3 and jax.process_index():
        raise RuntimeError("bad memory")
    before(self, step, metrics)
Log.defer = defer
"""


@pytest.mark.long
def test_hosts_of_other_settings_are_told_before_the_first_step(
    tmp_path: Path, corpus_directory
):
    pretrain = ["pretrain", "bert_tiny", "--corpus", corpus_directory, *TINY]
    run = ["--workdir", str(tmp_path)]
    ended = finish(hosts([*pretrain, *run], first=OTHER_SETTING))
    said = (
        "jaxlm: the hosts differ; give all of them the same command, code and data:\n"
        "  host 1: optim.peak is 0.5, on host 0 0.0015\n"
    )
    assert ended == [(2, "", said)] * 2


@pytest.mark.long
def test_an_error_of_one_host_alone_ends_all_at_once(tmp_path: Path, corpus_directory):
    pretrain = ["pretrain", "bert_tiny", "--corpus", corpus_directory, *TINY]
    first, second = finish(
        hosts([*pretrain, "--workdir", str(tmp_path)], first=BAD_STEP)
    )
    assert (first[0], second[0]) == (1, 1)
    line = "jaxlm: host 1 has stopped with status 1: its output says why"
    assert first[2].splitlines()[-1] == line and "Traceback" not in first[2]
    assert second[2].splitlines()[-1] == "RuntimeError: bad memory"


def test_a_mistake_ends_all_hosts(tmp_path: Path):
    """Here only the first of them looks: the others would wait for it for ever."""
    with lock(tmp_path):
        ended = finish(hosts(["pretrain", "bert_tiny", "--workdir", str(tmp_path)]))
    assert [status for status, *_ in ended] == [2, 2], ended
    assert f"in use by process {os.getpid()} on " in ended[0][2]
    assert "host 0 has stopped: " in ended[1][2]


def test_all_hosts_have_a_corpus_that_is_prepared_once(tmp_path: Path):
    corpus, text = tmp_path / "corpus", tmp_path / "text.txt"
    text.write_text("".join(f"The number {n} follows.\n\n" for n in range(2000)))
    words = ["prepare", "bert_tiny", "--model.vocab_size", "600", "--processes", "1"]
    words += ["--text", str(text), "--corpus", str(corpus)]
    ended = finish(hosts(words))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert f"{corpus}: " in ended[0][2]
    assert ended[1][1:] == ("", "")
    assert (corpus / "manifest.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("lost, how", [(1, signal.SIGKILL), (0, signal.SIGSTOP)])
def test_a_host_that_loses_another_says_so_in_one_line(
    tmp_path: Path, corpus_directory, lost, how
):
    """Whether the other was killed or is stuck, and whether it led the job."""
    run = tmp_path / "run"
    words = ["pretrain", "bert_tiny", "--corpus", corpus_directory, *TINY]
    processes = hosts([*words, "--workdir", str(run)])
    survivor = processes[1 - lost]
    with processes[0], processes[1]:
        try:
            wait_for(run / "checkpoints/2", processes)
            processes[lost].send_signal(how)
            sent = time.monotonic()
            _, error = survivor.communicate(timeout=60)
            assert time.monotonic() - sent < 40
        finally:
            for process in processes:
                process.kill()
    assert survivor.returncode not in (0, 2, 75)
    log = run / f"host-{1 - lost}.log"
    line = without_size(error)
    assert len(line.splitlines()) == 1, error
    assert line.startswith(f"jaxlm: host {1 - lost} has ended, because host {lost} was")
    assert "the same command on all hosts resumes" in line and str(log) in line
    assert "Check failure stack trace" in log.read_text()
