"""Verbs on several hosts: which run where, and how all of them end."""

import importlib
import pkgutil
import signal
from pathlib import Path

import pytest
from jobs import finish, hosts, wait_for

import jaxlm.cli
from jaxlm.cli import VERBS, main, where_runs
from jaxlm.cli.runtime import Where

LEFT = "jaxlm: host 1 has nothing to do: host 0 does the work of this verb\n"
MINE = "jaxlm: interrupted; run the same command to resume\n"
OTHER = "jaxlm: host {} was interrupted; run the same command to resume\n"

# A command of each verb that uses devices.
JOINING = """
prepare bert_tiny --text {text} --corpus {out}
pretrain bert_tiny --text {text} --workdir {out}
finetune sst2 --init shipped:novels --data {text} --workdir {out}
predict shipped:novels --data {text} --out {out}/a.tsv
evaluate shipped:novels --text {text}
fill shipped:novels [MASK]
generate shipped:novels-gpt --prompt a
embed shipped:novels --text {text} --out {out}/a.npz
probe senses shipped:novels --word bank --text {text}
zeroshot shipped:novels-gpt --prompt a
playground shipped:novels
export shipped:novels --to hf --out {out}/m
import {out} --out {out}/m
doctor
"""


class JoinedError(Exception):
    """A verb has reached the place where hosts join."""


@pytest.fixture
def joining(monkeypatch):
    """Verbs end where hosts join."""

    def start_jax(*_, **__):
        raise JoinedError

    found = pkgutil.iter_modules(jaxlm.cli.__path__, "jaxlm.cli.")
    # All are imported first: one that is not yet would take, and keep, the false one.
    for module in [importlib.import_module(each.name) for each in found]:
        if hasattr(module, "start_jax"):
            monkeypatch.setattr(module, "start_jax", start_jax)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_runs_on_all_hosts_or_on_the_first(
    verb, joining, tmp_path, monkeypatch, capsys
):
    commands = {line.split()[0]: line for line in JOINING.strip().splitlines()}
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    if where_runs([verb]) is Where.ALONE:
        assert verb not in commands
        assert main([verb, "nonsense"]) == 0  # it is not even looked at
        assert capsys.readouterr() == ("", LEFT)
        return
    text = tmp_path / "text.tsv"
    text.write_text("The bank.\n" * 3)
    command = commands[verb].format(text=text, out=tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JoinedError):
        main(command.split())
    assert verb == "doctor" or capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
    "number, count", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")]
)
def test_the_first_host_of_any_launcher_shows_what_needs_no_device(
    number, count, monkeypatch, capsys
):
    monkeypatch.setenv(count, "2")
    said = []
    for host in "01":
        monkeypatch.setenv(number, host)
        assert main(["help", "machines"]) == 0
        said.append(capsys.readouterr())
    monkeypatch.delenv(number)  # a shell of salloc has the count alone
    assert main(["help", "machines"]) == 0
    assert capsys.readouterr() == said[0]
    assert said[0].out.startswith("# GPUs, TPU pods") and not said[0].err
    assert said[1] == ("", LEFT)


@pytest.mark.parametrize("model, status", [("novels", 0), ("none", 2)])
def test_the_first_host_alone_does_what_is_not_training(model, status):
    ended = finish(hosts(["fill", f"shipped:{model}", "She[MASK]was", "--top_k", "1"]))
    assert [each for each, *_ in ended] == [status, status], ended
    assert bool(ended[0][1]) == (not status)
    assert ended[0][2].count("\n") == bool(status)
    assert ended[1][1:] == ("", LEFT)


# What `fill` does lasts until it is ended, and makes a file.
SLOW = """
import pathlib, time, jaxlm
def load(directory):
    pathlib.Path({!r}).touch()
    time.sleep(600)
jaxlm.load = load
"""


def slow_fill(tmp_path: Path, *then: tuple[int, signal.Signals], gone: bool = False):
    """How `fill` ends on two hosts if one gets a signal while the first works, and
    perhaps nobody reads what they say."""
    begun = tmp_path / "begun"
    first = SLOW.format(str(begun))
    processes = hosts(["fill", "shipped:novels", "She[MASK]was"], first=first)
    wait_for(begun, processes)
    for each in processes if gone else ():
        each.stdout.close()
        each.stderr.close()
    for host, how in then:
        processes[host].send_signal(how)
    return finish(processes)


@pytest.mark.parametrize("host", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_signal_to_one_host_ends_all_while_the_first_works(tmp_path, host):
    ended = slow_fill(tmp_path, (host, signal.SIGTERM))
    said = [OTHER.format(host)] * 2
    said[host] = MINE
    assert ended == [(75, "", said[0]), (75, "", LEFT + said[1])]


def test_a_signal_ends_all_whose_terminals_are_gone(tmp_path):
    assert slow_fill(tmp_path, (0, signal.SIGTERM), gone=True) == [(75, "", "")] * 2


@pytest.mark.long
@pytest.mark.parametrize("host", [0, 1])
def test_the_loss_of_a_host_ends_the_other_in_one_line(tmp_path, host):
    ended = slow_fill(tmp_path, (host, signal.SIGKILL))
    assert ended[host][0] == -signal.SIGKILL
    status, out, error = ended[1 - host]
    assert status not in (0, 2, 75) and not out
    (line,) = error.replace(LEFT, "").splitlines()
    assert line.startswith(f"jaxlm: host {1 - host} has ended, because host {host} was")


@pytest.mark.parametrize("host", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_signal_to_one_host_ends_all_while_others_wait_for_a_corpus(tmp_path, host):
    """Python's handlers do not run on the second host: it waits in native code."""
    corpus = tmp_path / "corpus"
    words = ["prepare", "bert_tiny", "--model.vocab_size", "600", "--processes", "1"]
    processes = hosts([*words, "--text", "shipped:austen", "--corpus", str(corpus)])
    wait_for(corpus / ".partial/tokenizer", processes)
    processes[host].send_signal(signal.SIGTERM)
    said = [OTHER.format(host)] * 2
    said[host] = MINE
    ended = finish(processes)
    assert [status for status, *_ in ended] == [75, 75], ended
    errors = [
        [line for line in error.splitlines(True) if " MB/s" not in line]
        for _, _, error in ended
    ]
    assert errors == [[line] for line in said]
