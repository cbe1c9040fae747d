"""A mistake ends in one line with the remedy, and a status that tells its kind."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from cli.commands import TINY, again, mistake

from jaxlm.cli import main
from jaxlm.files import read_json, seal, write_json
from jaxlm.text.tokenizers import WordPiece, load_tokenizer
from jaxlm.train.workdir import lock
from jaxlm.types import UserError


def test_what_does_not_fit_in_memory_exits_3(monkeypatch, capsys):
    def run(argv):
        raise RuntimeError("RESOURCE_EXHAUSTED: 99 GiB.\nMore.")

    monkeypatch.setattr("jaxlm.cli.use.run_fill", run)
    assert main(["fill", "x", "y"]) == 3
    error = capsys.readouterr().err
    assert error == "jaxlm: does not fit in memory: RESOURCE_EXHAUSTED: 99 GiB.\n"


NEW = "pretrain bert_tiny --workdir HERE/w"


class TestMistakes:
    """Each is one line with the remedy, status 2, and nothing lost."""

    @pytest.mark.parametrize(
        "words, said",
        [
            ("pretain", ["did you mean pretrain"]),
            ("pretrain bert_tinny", ["did you mean bert_tiny"]),
            ("pretrain sst2", ["a recipe of jaxlm finetune"]),
            (f"{NEW} --optim.peek 1", ["no flag --optim.peek", "--optim.peak NUMBER"]),
            ("fill", ["fill needs DIRECTORY"]),
            (
                "export x --to hg --out y",
                ["--to 'hg': did you mean hf? there are hf, "],
            ),
            (
                "export x --to hf --out y --verify maybe",
                ["'maybe' is neither true nor false"],
            ),
            (
                "pretrain bert_tiny",
                ["pretrain needs --workdir DIR"],
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

    def test_damaged_checkpoint_names_the_leaf(self, run, capsys, tmp_path):
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
        capsys.readouterr()
        assert main(argv) == 2
        size, error = capsys.readouterr().err.splitlines()
        assert "parameters; 4 steps" in size and error.startswith("jaxlm: ")
        assert "embed/" in error and "--fallback" in error
        assert main([*argv, "--fallback", "true"]) == 0

    def test_workdir_in_use(self, run, capsys):
        with lock(run):
            assert f"process {os.getpid()}" in mistake(capsys, *again(run))


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
