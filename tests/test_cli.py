"""What a user types and what comes back: results, one clear line, exit status."""

import contextlib
import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import jaxlm
from jaxlm.cli import main, pretrain
from jaxlm.cli.arguments import parse
from jaxlm.cli.use import Generate
from jaxlm.convert.hdf5 import write_hdf5
from jaxlm.files import read_json, seal, write_json
from jaxlm.text.prepare import Progress
from jaxlm.text.tokenizers import WordPiece, load_tokenizer
from jaxlm.types import UserError

SHIPPED = Path(jaxlm.__file__).parent / "text" / "shipped"
TINY = """
    --model.vocab_size 600 --model.num_layers 1 --model.num_heads 2 --model.d_model 16
    --model.d_ff 32 --batch 8 --length 32 --predictions 5 --log.tensorboard false
    --mesh.data 1 --steps 4 --save_every 2 --eval_every 2 --log.every 2
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def novel(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    with lzma.open(next(SHIPPED.glob("austen*")), "rt") as file:
        path.write_text(file.read(120_000))
    return str(path)


@pytest.fixture(scope="module")
def run(novel, tmp_path_factory) -> Path:
    """A run directory and beside it its corpus, made by the command line alone."""
    here = tmp_path_factory.mktemp("run")
    arguments = ["--text", novel, "--holdout", "0.3", "--processes", "1"]
    corpus = ["--corpus", str(here / "corpus")]
    assert main(["prepare", "bert_tiny", *arguments, *corpus, *TINY]) == 0
    assert (
        main(["pretrain", "bert_tiny", *corpus, "--workdir", str(here / "r"), *TINY])
        == 0
    )
    return here / "r"


def again(run: Path, *more: str) -> list[str]:
    corpus = str(run.parent / "corpus")
    return [
        "pretrain",
        "bert_tiny",
        "--corpus",
        corpus,
        "--workdir",
        str(run),
        *TINY,
        *more,
    ]


def mistake(capsys, *argv: str) -> str:
    """The one line that a command which must fail leaves behind."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    out, error = capsys.readouterr()
    assert not out and "Traceback" not in error
    first, *rest = error.strip().splitlines()
    assert first.startswith("jaxlm: ")
    assert all(line.startswith("  ") for line in rest), error
    return error


def test_a_run_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "provenance.json", "metrics.jsonl", "tokenizer"} <= names
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    wanted = "step loss learning_rate grad_norm skipped tokens_per_second mfu"
    assert set(wanted.split()) <= set(record)
    provenance = json.loads((run / "provenance.json").read_text())[0]
    assert provenance["versions"]["jax"] and provenance["corpus_sha256"]


def test_the_same_command_again_is_done_at_once(run, capsys):
    assert main(again(run)) == 0
    assert "state sha256 " in capsys.readouterr().out


def test_fill_gives_words_with_probabilities(run, capsys):
    assert main(["fill", str(run), "She was [MASK] and [MASK].", "--top_k", "3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[MASK] 1: ") and second.startswith("[MASK] 2: ")
    assert first.count("%") == 3
    assert main(["fill", str(run), "She was [MASK] and [MASK].", "A [MASK]."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "She was [MASK] and [MASK]." and lines[3] == "A [MASK]."
    assert len(lines) == 5


def test_evaluate_puts_baselines_beside_figures(run, novel, capsys):
    assert main(["evaluate", str(run), "--text", novel, "--json", "true"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["unigram_loss"] > 0 and 0 < figures["unigram_accuracy"] < 1
    assert main(["evaluate", str(run), "--corpus", str(run.parent / "corpus")]) == 0
    assert "majority" in capsys.readouterr().out


def test_load_from_python_gives_every_layer(run):
    model = jaxlm.load(str(run))
    out = model.forward([[2, 10, 11, 3], [2, 12, 3, 0]])
    assert out.hidden.shape == (2, 2, 4, 16)
    assert out.logits.shape == (2, 4, 600)
    assert out.nsp_logits.shape == (2, 2)
    assert isinstance(model.params, dict)


@pytest.mark.parametrize("name", ["bert_base", "gpt2_small"])
def test_show_a_config(name, capsys):
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    count = {"bert_base": "110,106,428", "gpt2_small": "124,439,808"}[name]
    assert f"\n{count} parameters" in out
    line = next(x for x in out.splitlines() if x.startswith("layers/mlp/wi/kernel "))
    words = ["12", "×", "768", "×", "3072", "28,311,552", "layers,", "embed,", "mlp"]
    assert line.split()[1:] == [*words, "yes"]


def test_show_a_corpus_and_a_run_with_rows(run, capsys):
    for place in (run.parent / "corpus", run):
        assert main(["show", str(place), "--rows", "2"]) == 0
        out = capsys.readouterr().out
        first, second = out[out.index("row 0: ") :].split("row 1: ")
        assert "[CLS] " in first and second.count("[SEP]") == 2 and "]=" in out
    assert "checkpoint 4  state sha256 " in out and "step 4  held out  loss " in out


def test_show_refuses_flags_that_would_change_nothing(run, capsys):
    assert "--rows needs text: jaxlm show CORPUS --config bert_base" in mistake(
        capsys, "show", "bert_base", "--rows", "3"
    )
    assert "--config is for a corpus" in mistake(
        capsys, "show", str(run), "--config", "bert_base"
    )


def test_evaluate_refuses_flags_that_would_change_nothing(capsys):
    of_task = ["evaluate", "DIR", "--data", "dev.tsv"]
    assert "--stride is for text" in mistake(capsys, *of_task, "--stride", "4")
    of_text = ["evaluate", "DIR", "--corpus", "c"]
    assert "--task.label is for columns" in mistake(
        capsys, *of_text, "--task.label", "y"
    )


def test_one_percent_is_held_out_by_default(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Number {n} is here.\nIt ends.\n\n" for n in range(400)))
    where = ["--text", str(text), "--corpus", str(tmp_path / "c")]
    assert main(["prepare", "bert_tiny", *where, *TINY]) == 0
    said = capsys.readouterr().err
    assert "400 documents (" in said
    count = int(said.split("400 documents (")[1].split()[0])
    assert 0 < count < 20 and "held out for evaluation by --holdout 0.01" in said
    # Training evaluates on them without being asked to, and says so if it cannot.
    words = ["bert_tiny", *where, "--workdir", str(tmp_path / "r"), *TINY]
    assert main(["pretrain", *words]) == 0
    assert "step 2  evaluation  " in capsys.readouterr().out
    none = ["--holdout", "0", "--corpus", str(tmp_path / "all")]
    assert main(["pretrain", *words, *none, "--workdir", str(tmp_path / "n")]) == 0
    out, error = capsys.readouterr()
    assert "no evaluation: 0 held-out documents" in out
    (note,) = [line for line in error.splitlines() if "[unusedN]" in line]
    assert main(["show", str(tmp_path / "all")]) == 0
    assert note in capsys.readouterr().out.splitlines()


def test_progress_is_told_while_nothing_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "_SECONDS_BETWEEN_LINES", 0.02)
    with pretrain._lines() as report:
        report(Progress("tokens", 1_000_000, 2_000_000, 0, "a.txt.xz"))
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) > 2 and said[-1].startswith(
        "tokens: reading a.txt.xz, 1.0 of 2.0 MB, "
    )


def test_a_token_with_a_nul_is_written(tmp_path):
    with write_hdf5(tmp_path / "x.h5") as put:
        put("tokens/0", ["a\0b", "c"])
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["tokens/0"].asstr()[:].tolist() == ["a\ufffdb", "c"]


def test_embed_reads_lines_as_prepare_does(run, tmp_path, capsys):
    plain, marked = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_text("One.\nTwo\u2028two.\n")
    marked.write_bytes(gzip.compress("\ufeffOne.\r\nTwo\u2028two.\r\n".encode()))
    found = []
    for path in (plain, marked):
        out = str(tmp_path / "v.npz")
        assert main(["embed", str(run), "--text", str(path), "--out", out]) == 0
        with np.load(out) as file:
            found.append({name: file[name] for name in file})
    assert found[0].keys() == found[1].keys() == {"0", "1", "tokens/0", "tokens/1"}
    for name, each in found[0].items():
        np.testing.assert_array_equal(each, found[1][name])
    plain.write_bytes(b"One.\nTwo \xff\n")
    words = ["embed", str(run), "--text", str(plain), "--out", out]
    assert "a.txt, line 2: byte 0xff is not UTF-8" in mistake(capsys, *words)
    (tmp_path / "t.jsonl").write_text('{"text": 7}\n')
    words = ["evaluate", str(run), "--text", str(tmp_path / "t.jsonl")]
    assert 't.jsonl, line 1: "text" is 7' in mistake(capsys, *words)
    assert 'no field "body": it has text' in mistake(capsys, *words, "--field", "body")


def test_what_does_not_fit_in_memory_exits_3(monkeypatch, capsys):
    def run(argv):
        raise RuntimeError("RESOURCE_EXHAUSTED: 99 GiB.\nMore.")

    monkeypatch.setattr("jaxlm.cli.use.run_fill", run)
    assert main(["fill", "x", "y"]) == 3
    error = capsys.readouterr().err
    assert error == "jaxlm: does not fit in memory: RESOURCE_EXHAUSTED: 99 GiB.\n"


def test_flags_are_written_in_several_ways():
    words = ["DIR", "--prompt", "true", "--max-tokens=7", "--prompt=b", "--json"]
    args = parse(Generate, [*words, "--top_k", "3", "--top-k", "4"])
    assert args.prompt == ("true", "b") and args.max_tokens == 7
    assert args.json is True and args.top_k == 4
    assert parse(Generate, [*words, "false"]).json is False


def test_help_names_what_is_required(capsys):
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    said = capsys.readouterr().out
    assert "usage: jaxlm embed [-h] [OPTIONS] DIRECTORY" in said
    assert "--out STR" in said and "(required)" in said
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "usage: jaxlm pretrain CONFIG [-h]" in capsys.readouterr().out


def test_help_is_instant_and_imports_no_jax():
    began = time.monotonic()
    code = (
        "import sys; from jaxlm.cli import main; main(['--help']);"
        "sys.exit('jax' in sys.modules or 'tyro' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True).returncode
        == 0
    )
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("verb", ["prepare", "pretrain", "show", "evaluate", "fill"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"jaxlm {verb}" in capsys.readouterr().out


NEW = "pretrain bert_tiny --workdir HERE/w"


class TestMistakes:
    """Each is one line with the remedy, status 2, and nothing lost."""

    @pytest.mark.parametrize(
        "words, said",
        [
            ("pretain", ["did you mean pretrain"]),
            ("pretrain bert_tinny", ["did you mean bert_tiny"]),
            ("pretrain sst2", ["a recipe of jaxlm finetune"]),
            (f"{NEW} --optim.peek 1", ["--optim.peek", "--optim.peak FLOAT"]),
            ("fill", ["Missing from jaxlm fill: DIRECTORY"]),
            ("export x --to hg --out y", ["'--to'. Expected one of ('hf'"]),
            (
                "export x --to hf --out y --verify maybe",
                ["'maybe' is neither true nor false"],
            ),
            (
                "pretrain bert_tiny",
                ["Missing from jaxlm pretrain CONFIG: --workdir"],
            ),
            (NEW, ["--text"]),
            ("prepare bert_tiny --text no/*.txt --corpus HERE/c", ["no/*.txt"]),
            (f"{NEW} --length 4000", ["4000", "model.max_length"]),
            (f"{NEW} --steps many", ["--steps", "many"]),
            ("fill HERE [MASK]", ["not a run directory"]),
            ("fill RUN", ["no text to fill"]),
            ("fill RUN nothing", ["no [MASK]"]),
            ("evaluate RUN --text x --batch 0", ["--batch = 0 must be at least 1"]),
        ],
    )
    def test_of_the_words_alone(self, words, said, run, tmp_path, capsys):
        words = words.replace("HERE", str(tmp_path)).replace("RUN", str(run))
        error = mistake(capsys, *words.split())
        assert all(each in error for each in said)
        assert not (tmp_path / "w" / "config.json").exists()

    def test_one_document_with_next_sentences(self, capsys, tmp_path):
        text = tmp_path / "one.txt"
        text.write_text("A sentence is here.\nAnother one follows it.\n" * 50)
        corpus = ["bert_tiny", "--corpus", str(tmp_path / "c"), *TINY]
        assert main(["prepare", *corpus, "--text", str(text), "--holdout", "0"]) == 0
        train = ["pretrain", *corpus, "--workdir", str(tmp_path / "w")]
        error = mistake(capsys, *train, "--eval_every", "0")
        assert "1 document" in error and "--model.nsp false" in error

    def test_another_config(self, run, capsys):
        error = mistake(
            capsys, *again(run, "--optim.peak", "0.5", "--model.dropout", "0.2")
        )
        assert "optim.peak was 0.0015, is 0.5" in error
        assert "model.dropout" in error

    def test_another_vocabulary(self, run, capsys, tmp_path):
        argv = again(run, "--model.vocab_size", "700")
        argv[argv.index(str(run))] = str(tmp_path / "w")
        error = mistake(capsys, *argv)
        assert "vocabulary of 600" in error and "700" in error

    @pytest.mark.devices
    def test_batch_that_the_mesh_does_not_divide(self, novel, capsys, tmp_path):
        where = ["--corpus", str(tmp_path / "c"), "--workdir", str(tmp_path / "w")]
        argv = ["pretrain", "bert_tiny", "--text", novel, *where, *TINY]
        error = mistake(capsys, *argv, "--mesh.data", "8", "--batch", "12")
        assert "--batch 8 or 16" in error and not list(tmp_path.iterdir())

    def test_mesh_of_more_devices_than_there_are(self, run, capsys, tmp_path):
        argv = again(run, "--mesh.tensor", "16")
        argv[argv.index(str(run))] = str(tmp_path / "w")
        assert "16 devices asked, 1 here" in mistake(capsys, *argv)

    def test_init_that_is_not_there(self, run, capsys, tmp_path):
        argv = again(run, "--init", str(tmp_path / "gone"))
        argv[argv.index(str(run))] = str(tmp_path / "w")
        assert "gone: there is no such directory" in mistake(capsys, *argv)
        assert not (tmp_path / "w").exists()

    def test_fill_of_too_long_a_text(self, run, capsys):
        assert "64 positions" in mistake(capsys, "fill", str(run), "[MASK] word " * 200)

    def test_truncated_corpus(self, run, capsys, tmp_path):
        import shutil

        corpus = tmp_path / "corpus"
        shutil.copytree(run.parent / "corpus", corpus)
        shard = max(
            (p for p in (corpus / "tokens").rglob("*") if p.is_file()),
            key=lambda p: p.stat().st_size,
        )
        shard.write_bytes(shard.read_bytes()[:-7])
        argv = again(run)
        argv[argv.index(str(run.parent / "corpus"))] = str(corpus)
        assert "tokens" in mistake(capsys, *argv)

    def test_damaged_checkpoint_names_the_leaf(self, run, capsys, tmp_path):
        import shutil

        copy = tmp_path / "r"
        shutil.copytree(run, copy)
        newest = copy / "checkpoints" / "4"
        shard = max(
            (p for p in newest.rglob("*") if p.is_file() and "embed" in str(p)),
            key=lambda p: p.stat().st_size,
        )
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(bytes(data))
        argv = again(run)
        argv[argv.index(str(run))] = str(copy)
        error = mistake(capsys, *argv)
        assert "embed/" in error and "--fallback" in error
        assert main([*argv, "--fallback", "true"]) == 0

    def test_workdir_in_use(self, run, capsys):
        from jaxlm.train.workdir import lock

        with lock(run):
            assert f"process {os.getpid()}" in mistake(capsys, *again(run))

    def test_bytes_that_are_not_utf8(self, capsys, tmp_path):
        text = tmp_path / "latin.txt"
        text.write_bytes("Caf\u00e9 is a word. ".encode("latin-1") * 400)
        argv = ["--text", str(text), "--corpus", str(tmp_path / "c"), *TINY]
        error = mistake(capsys, "prepare", "bert_tiny", *argv)
        assert "latin.txt, line 1: byte 0xe9" in error and "--errors replace" in error
        assert main(["prepare", "bert_tiny", *argv, "--errors", "replace"]) == 0


def test_a_run_is_not_used_with_another_config_or_vocabulary(run, tmp_path, capsys):
    """Sound files of another run: the digest in each of them is right."""
    here = Path(shutil.copytree(run, tmp_path / "run"))
    text = "She was [MASK] here."
    config = read_json(here / "config.json")
    del config["sha256"]
    config["model"]["num_heads"] = 1
    write_json(here / "config.json", seal(config))
    line = mistake(capsys, "fill", str(here), text)
    assert "saved by another run: model.num_heads was 2, is 1" in line
    line = mistake(capsys, "show", str(here))
    assert "saved by another run: model.num_heads was 2, is 1" in line
    (here / "config.json").unlink()
    line = mistake(capsys, "export", str(here), "--to", "hf", "--out", f"{here}.hf")
    assert "no config.json; the command that trained the run writes it anew" in line
    shutil.copy(run / "config.json", here)
    tokens = load_tokenizer(here / "tokenizer").tokens
    WordPiece([*tokens[:-2], tokens[-1], tokens[-2]], lowercase=True).save(
        here / "tokenizer"
    )
    line = mistake(capsys, "evaluate", str(here), "--corpus", f"{run.parent}/corpus")
    assert "saved by another run: tokenizer_sha256 was" in line


def test_no_torn_file_of_a_run_is_a_traceback(run, tmp_path, capsys):
    """All but the leaves, which have tests of their own."""
    here = tmp_path / "run"
    shutil.copytree(run, here, ignore=shutil.ignore_patterns("state"))
    files = [path for path in here.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for left in (None, 0, 0.5):
            if left is None:
                path.unlink()
            else:
                path.write_bytes(content[: int(left * len(content))])
            capsys.readouterr()
            status, (out, error) = main(["show", str(here)]), capsys.readouterr()
            assert (status, error.count("\n")) in ((0, 0), (2, 1)), (path, left)
            if path.name in ("metrics.jsonl", "provenance.json"):
                assert status == 2 or f"{path.name} " in out, (path, left)
            with contextlib.suppress(UserError):
                load_tokenizer(here / "tokenizer")
        path.write_bytes(content)


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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_verb_anywhere_in_one_line_and_leaves_nothing(how, tmp_path):
    command = [sys.executable, "-c", SIGNALLED, "show", str(int(how))]
    environment = {**os.environ, "PYTHONPATH": str(Path(jaxlm.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "jaxlm: interrupted; run the same command to resume\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
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
