"""Every verb on a model of every family works, or is refused with what fits instead."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import exported
import pytest
from reviews import reviews, write_tsv

from jaxlm.cli import VERBS, main

STEP = """
    --model.dropout 0 --batch 8 --length 16 --steps 1 --save_every 1 --eval_every 0
    --optim.warmup 0 --log.tensorboard false --holdout 0.2 --processes 1
"""
SHAPE = "--model.num_layers 1 --model.num_heads 1 --model.d_model 8 --model.d_ff 32"
BERT = f"{SHAPE} --model.vocab_size 150 --model.max_length 32 --predictions 3"
PRETRAIN = {
    "bert": f"bert_tiny {BERT}",
    "ernie": f"ernie_tiny {BERT}",
    # Its vocabulary is given, not trained.
    "gpt1": f"gpt1 --tokenizer VOCABULARY {SHAPE} --model.vocab_size 150",
    "gpt2": f"gpt2_tiny {SHAPE} --model.vocab_size 300 --model.max_length 32",
    "elmo": "elmo_tiny --model.vocab_size 30 --model.d_model 4 --model.d_ff 6 "
    "--model.filters 2 3 --model.max_characters 8 --data.negatives 10",
}
OF_TEXT = r"^\w+|--(?:tokenizer|model\.vocab_size) \S+"
PASS = """
    --batch 8 --length 16 --task.buckets 16 --task.epochs 1 --log.tensorboard false
    --save_every 1
"""
FINETUNE = {
    "bert": "sst2",
    "ernie": "sst2",
    "gpt1": "sst2_gpt",
    "gpt2": "sst2_gpt",
    "elmo": "sst2_elmo --task.width 2",
}


def all_of(what: str) -> dict[str, str]:
    return dict.fromkeys(PRETRAIN, what)


DECODERS = {"gpt1": "jaxlm generate", "gpt2": "jaxlm generate"}
HF = {"gpt1": "--to hf", "gpt2": "--to hf"}
# Words of a command, and what its refusal names for the families that it does not fit.
# RUN is a pretraining run, MODEL a model directory, TASK a fine-tuning run.
CASES = {
    "prepare TEXT": ("prepare RECIPE_OF_TEXT --text TEXT --corpus OUT", {}),
    "pretrain RUN": ("pretrain RECIPE --text TEXT --workdir RUN", {}),
    "pretrain into TASK": (
        "pretrain RECIPE --corpus CORPUS --workdir TASK",
        all_of("finetune"),
    ),
    "show RUN": ("show RUN --rows 1", {}),
    "show TASK": ("show TASK", {}),
    "evaluate RUN": ("evaluate RUN --text TEXT --rows 8 --batch 8", {}),
    "evaluate RUN alone": ("evaluate RUN --batch 8", {}),
    "evaluate RUN --data": ("evaluate RUN --data DEV", all_of("jaxlm finetune")),
    "evaluate TASK": ("evaluate TASK --data DEV", {}),
    "evaluate TASK alone": ("evaluate TASK", {}),
    "evaluate MODEL alone": ("evaluate MODEL", all_of("--text FILE")),
    "evaluate TASK --text": ("evaluate TASK --text TEXT", all_of("jaxlm predict")),
    "fill RUN": ("fill RUN 'the [MASK]'", {**DECODERS, "elmo": "jaxlm embed"}),
    "fill TASK": ("fill TASK 'the [MASK]'", all_of("jaxlm predict")),
    "generate RUN": (
        "generate RUN --prompt the --max_tokens 2",
        {"bert": "jaxlm fill", "ernie": "jaxlm fill", "elmo": "jaxlm embed"},
    ),
    "generate TASK": ("generate TASK --prompt the", all_of("jaxlm predict")),
    "embed RUN": ("embed RUN --text LINES --out OUT.npz", {}),
    "embed MODEL": ("embed MODEL --text LINES --out OUT.npz", {}),
    "embed TASK": ("embed TASK --text LINES --out OUT.npz", all_of("jaxlm predict")),
    "probe RUN": ("probe senses RUN --word film --text LINES --cache OUT", {}),
    "probe TASK": (
        "probe senses TASK --word film --text LINES",
        all_of("jaxlm predict"),
    ),
    "report RUN": ("report RUN --out OUT", {}),
    "report TASK": ("report TASK --out OUT", {}),
    "report MODEL": ("report MODEL --out OUT", all_of("is a model")),
    "finetune RUN": ("finetune RECIPE_OF_TASK --init RUN --workdir TASK", {}),
    "finetune RUN by another family's recipe": (
        "finetune ANOTHER --init RUN --data DATA --workdir OUT",
        all_of("--task."),
    ),
    "finetune into RUN": (
        "finetune RECIPE_OF_TASK --init RUN --workdir RUN",
        all_of("pretrain"),
    ),
    "predict RUN": ("predict RUN --data DEV --out OUT", all_of("jaxlm finetune")),
    "predict MODEL": ("predict MODEL --data DEV --out OUT", all_of("jaxlm finetune")),
    "predict TASK": ("predict TASK --data DEV --out OUT", {}),
    "export RUN hf": ("export RUN --to hf --out OUT", {"elmo": "--to elmo"}),
    "export RUN sentence": (
        "export RUN --to sentence --out OUT",
        {**HF, "elmo": "--to elmo"},
    ),
    "export RUN elmo": (
        "export RUN --to elmo --out OUT",
        {**HF, "bert": "--to hf", "ernie": "--to hf"},
    ),
    "export RUN gguf": (
        "export RUN --to gguf --out OUT",
        {"ernie": "--to hf", "gpt1": "--to hf", "elmo": "--to elmo"},
    ),
    "export RUN onnx": ("export RUN --to onnx --out OUT", {"elmo": "--to elmo"}),
    "export RUN stablehlo": (
        "export RUN --to stablehlo --out OUT",
        {"elmo": "--to elmo"},
    ),
    "export TASK hf": ("export TASK --to hf --out OUT", {"elmo": "jaxlm predict"}),
    "export TASK onnx": ("export TASK --to onnx --out OUT", all_of("--to hf")),
    "import MODEL": ("import MODEL --out OUT", {}),
    "import RUN": ("import RUN --out OUT", all_of("jaxlm export")),
}
# Of optional packages; without them the command says what to install.
PACKAGES = {
    "probe RUN": "sklearn",
    "export RUN gguf": "gguf",
    "export RUN onnx": "onnx",
    "export RUN stablehlo": "flatbuffers",
}


class Bench:
    """The directories that the commands are about, each made when it is asked for."""

    def __init__(self, here: Path):
        self.here = here
        texts = [text for text, _ in reviews(200)]
        (here / "lines.txt").write_text("\n".join(texts[:8]) + "\n")
        documents = [" .\n".join(texts[i : i + 8]) for i in range(0, 200, 8)]
        (here / "text.txt").write_text(" .\n\n".join(documents) + " .\n")
        for name, count in (("train", 8), ("dev", 4)):
            rows = reviews(count, seed=1)
            write_tsv(here / f"data/{name}.tsv", ("sentence", "label"), rows)
        exported.export(here / "vocabulary", "gpt1")

    def argv(self, family: str, words: str) -> list[str]:
        """The command of a row of the table."""
        here = self.here
        task = f"{FINETUNE[family]} --data {here}/data {PASS}"
        names = {
            "RECIPE_OF_TASK": task,
            "RECIPE_OF_TEXT": " ".join(re.findall(OF_TEXT, PRETRAIN[family])),
            "RECIPE": f"{PRETRAIN[family]} {STEP}",
            "ANOTHER": "sst2_gpt" if family in ("bert", "ernie") else "sst2",
            "VOCABULARY": here / "vocabulary",
            "TEXT": here / "text.txt",
            "CORPUS": here / f"{family}-run/corpus",
            "LINES": here / "lines.txt",
            "DATA": here / "data",
            "DEV": here / "data/dev.tsv",
            "OUT": here / f"out{len(list(here.iterdir()))}",
            "OUT.npz": here / "out.npz",
        }
        make = {"RUN": self.run, "MODEL": self.model, "TASK": self.task}
        out = []
        for word in shlex.split(words):
            if word in make:
                out.append(str(make[word](family)))
            elif word in names:
                out += self.argv(family, str(names[word]))
            else:
                out.append(word)
        return out

    def _made(self, name: str, family: str, words: str) -> Path:
        out = self.here / f"{family}-{name}"
        if not out.exists():
            assert main(self.argv(family, f"{words} {out}")) == 0
        return out

    def run(self, family: str) -> Path:
        """A pretraining run of one step."""
        return self._made("run", family, "pretrain RECIPE --text TEXT --workdir")

    def model(self, family: str) -> Path:
        """Its model directory."""
        form = "elmo" if family == "elmo" else "hf"
        return self._made("model", family, f"export RUN --to {form} --out")

    def task(self, family: str) -> Path:
        """A fine-tuning run of one step."""
        return self._made(
            "task", family, "finetune RECIPE_OF_TASK --init RUN --workdir"
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("matrix"))


def test_every_verb_is_in_the_matrix():
    # Others take no model: see tests/plan, cli/test_launch.py, cli/test_visitor.py,
    # test_playground.py and tests/zeroshot.
    tried = {words.split()[0] for words, _ in CASES.values()}
    others = "plan launch demo recipes doctor help playground zeroshot"
    assert tried == set(VERBS) - set(others.split())


def refusal(capsys, argv: list[str]) -> str:
    """The one line by which a command is refused; notes may stand above it."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    *_, last = error.splitlines()
    assert last.startswith("jaxlm: ") and error.count("jaxlm: ") == 1, error
    return last


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", PRETRAIN)
def test_verb(bench, capsys, family, case):
    words, refusals = CASES[case]
    argv = bench.argv(family, words)
    package = PACKAGES.get(case)
    if family in refusals:
        assert refusals[family] in refusal(capsys, argv)
    elif package and not importlib.util.find_spec(package):
        assert "pip install" in refusal(capsys, argv)
    else:
        assert main(argv) == 0
