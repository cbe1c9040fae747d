"""Fine-tuning on several hosts: seeds one after another, a signal, answers."""

import re
import signal

import pytest
from jobs import finish, hosts, wait_for

FLAGS = """
    --batch 16 --length 16 --optim.peak 0.001 --log.tensorboard false --log.every 20
    --save_every 2 --task.buckets 16 --task.epochs 1 --seeds 2
""".split()  # noqa: SIM905


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_seeds_go_on_bitwise_after_a_signal_to_the_first_host(
    tmp_path, model_directory, sst2
):
    tune = ["finetune", "sst2", "--init", model_directory, "--data", sst2, *FLAGS]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    processes = hosts([*tune, "--workdir", str(cut)])
    wait_for(cut / "seed-1/checkpoints/2", processes)
    processes[0].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [status for status, *_ in ended] == [75, 75], ended
    (step,) = map(int, re.findall(r"stopped at step (\d+) after", ended[0][2]))
    assert step < 13 and ended[1][1:] == ("", "")

    predict = ["predict", str(whole), "--data", f"{sst2}/dev.tsv"]
    predict += ["--out", str(tmp_path / "answers.tsv")]
    again = [[*tune, "--workdir", str(each)] for each in (cut, whole)]
    ended = finish(hosts(*again, predict))
    assert [status for status, *_ in ended] == [0, 0], ended
    states = re.findall("state sha256 (.*)", ended[0][1])
    assert len(states) == 4 and states[:2] == states[2:] and states[0] != states[1]
    for name in ("seeds.json", "seed-0/predictions.tsv", "seed-1/predictions.tsv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert "60 answers, by " in ended[0][1]
    assert len((tmp_path / "answers.tsv").read_text().splitlines()) == 61
