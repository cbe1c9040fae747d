"""README and guides: their commands are understood, their links lead somewhere."""

import importlib
import lzma
import pkgutil
import re
import shutil
import textwrap
from pathlib import Path

import exported
import guides
import pytest

import jaxlm.cli
from jaxlm.cli import arguments, main
from jaxlm.cli.finetune import Finetune
from jaxlm.cli.pretrain import Pretrain
from jaxlm.config import load_config


class UnderstoodError(Exception):
    """All flags of a command are understood; nothing was run."""


@pytest.fixture
def no_verb_runs(monkeypatch):
    """Verbs end when their arguments are parsed."""

    def parse(kind, argv, **given):
        arguments.parse(kind, argv, **given)
        raise UnderstoodError

    found = pkgutil.iter_modules(jaxlm.cli.__path__, "jaxlm.cli.")
    # All are imported first: one that is not yet would take, and keep, what is false.
    for module in [importlib.import_module(each.name) for each in found]:
        if module is not arguments and hasattr(module, "parse"):
            monkeypatch.setattr(module, "parse", parse)
        if hasattr(module, "start_jax"):
            monkeypatch.setattr(module, "start_jax", lambda *_, **__: None)


@pytest.mark.parametrize(
    "command", guides.shown(), ids=lambda c: f"{c.page}: {' '.join(c.argv)[:60]}"
)
def test_a_command_of_a_page_is_understood(command, no_verb_runs):
    verb, *words = command.argv
    if verb == "finetune":  # else it opens the model of --init
        arguments.parse(Finetune, words)
    elif "--fork" in words:  # else it opens the run
        arguments.parse(Pretrain, words, config=load_config("bert_tiny"))
    elif verb not in ("launch", "recipes", "doctor", "help"):
        with pytest.raises(UnderstoodError):
            main(command.argv)


def test_the_pages_show_every_verb():
    shown = {command.argv[0] for command in guides.shown()}
    assert set(jaxlm.cli.VERBS) - shown <= {"help"}


def test_links_of_pages_lead_to_files():
    for page in guides.PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_readme_is_short():
    readme, *others = guides.PAGES
    assert len(readme.read_text("utf-8").splitlines()) <= 150
    assert all(page.read_text("utf-8").startswith("# ") for page in others)


# Commands of the pages that are not run here, by how they begin, and why.
NOT_RUN = {
    "demo": "trains for two minutes; test_quickstart.py watches such a run",
    "plan": "compiles for machines for minutes; see tests/plan",
    "playground": "serves until Ctrl-C; see test_playground.py",
    "finetune ner": "reads CoNLL; see tests/tasks/test_tags.py and test_elmo.py",
    "finetune squad2": "reads SQuAD; see tests/tasks/test_spans.py",
    "predict runs/qa": "reads SQuAD; see tests/tasks/test_spans.py",
    "finetune similarity_gpt": "reads STS-B; see tests/tasks/test_gpt_runs.py",
    "finetune choice_gpt": "reads RACE; see tests/tasks/test_gpt_runs.py",
    "finetune sst2_elmo": "costs a minute; see tests/tasks/test_elmo.py",
    "finetune upos": "reads Universal Dependencies; see tests/tasks/test_transfer.py",
    "evaluate runs/upos": "reads Universal Dependencies; see tests/tasks",
    "probe attention models/minilm": "asks for a head of layer 5; see tests/probe",
    "probe edge": "reads Universal Dependencies; see tests/probe/test_edge.py",
    "probe senses runs/modern --data": "reads CoarseWSD-20; see tests/probe",
    "probe weights": "reads runs with a mix of layers; see tests/probe",
    "import path/to/ernie": "reads a pickle of torch; see tests/convert",
    "import path/to/elmo": "reads AllenNLP's files; see tests/convert",
    "import path/to/google/bert": "reads TensorFlow's files; see tests/convert",
    "embed models/elmo": "reads AllenNLP's files; see tests/convert",
    "pretrain bert_base --init": "is of BERT-base's size; see test_init.py",
    "pretrain --fork runs/a@8000": "costs 12 s, as the fork of runs.md, which runs",
    "pretrain gpt2_small": "is of GPT-2's size; see test_gpt_road.py",
    "pretrain mbert_tiny": "reads text of 3 languages; see test_mbert_road.py",
    "pretrain bert_tiny --text books/*.txt --workdir runs/own": "fills samples, which "
    "costs 20 s; see test_gpt_road.py",
    "prepare mbert_tiny": "reads text of 3 languages; see test_mbert_road.py",
    "prepare ernie_tiny --text news.txt": "reads PKU's annotations; see tests/text",
    "pretrain ernie_tiny --corpus corpora/news": "reads PKU's annotations",
    "export runs/gpt --to onnx": "needs onnx; see tests/convert",
    "export runs/gpt --to gguf": "is compared with llama.cpp in tests/convert",
    "zeroshot runs/gpt --protocol": "reads benchmarks; see tests/zeroshot",
    "zeroshot runs/gpt --harness": "reads benchmarks; see tests/zeroshot",
}
SMALL = """
    --steps 4 --batch 8 --length 32 --save_every 4 --eval_every 0
    --log.tensorboard false --processes 1 --keep_every log
"""
SHAPE = "--model.num_layers 1 --model.d_model 16 --model.num_heads 2 --model.d_ff 32"
VOCABULARY = "--model.vocab_size 600"
OF_FAMILY = {
    "bert": f"--predictions 5 {VOCABULARY} {SHAPE}",
    "gpt2": f"{VOCABULARY} {SHAPE}",
    "elmo": "--model.vocab_size 300 --model.num_layers 1 --model.d_model 16 "
    "--model.d_ff 32 --model.filters 4 8",
    "ernie": f"--predictions 5 {VOCABULARY} {SHAPE}",
}
OF_VERB = {
    "prepare": f"{VOCABULARY} --processes 1 --holdout 0.3",
    "generate": "--max_tokens 5 --samples 2",
    "finetune": "--task.epochs 1 --batch 8 --length 32 --task.buckets 32 --seeds 1 "
    "--log.tensorboard false",
    "export": "--verify false",  # tests/convert compares with other programs
    "import": "--verify false",
}
# What stands for what a reader has: files of other programs, and later steps.
HERE = {
    "models/mine": "bert",
    "path/to/all-MiniLM-L6-v2": "bert",
    "path/to/bert-base-uncased": "bert",
    "bert-base-uncased/vocab.txt": "corpora/novels/tokenizer",
    "path/to/gpt2": "gpt2",
    "runs/tiny@8000": "runs/tiny@4",
    "/dev/stdin": "sentences.txt",
    "8100:8300": "5:6",
    "1000": "2",
    "2000": "2",
    "18000": "4",
}


def not_run(argv: list[str]) -> list[str]:
    """The keys of `NOT_RUN` that a command begins with."""
    return [key for key in NOT_RUN if f"{' '.join(argv)} ".startswith(key)]


def small(argv: list[str]) -> list[str]:
    """A command of a page with settings by which it takes seconds."""
    words = [HERE.get(word, word) for word in argv]
    more = OF_VERB.get(words[0], "")
    if words[0] == "pretrain":
        forked = words[1] == "--fork"
        family = "" if forked else OF_FAMILY[words[1].split("_")[0]]
        more = f"{SMALL} {family}"
        if forked:
            more += " --steps 8 --save_every 8"
        if "--samples" in words:
            more += " --eval_every 4"
    return [*words, *more.split()]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The files that the pages name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    shipped = Path(jaxlm.__file__).parent / "text" / "shipped"
    for folder, name in (("books", "austen"), ("zh", "classics-zh")):
        Path(folder).mkdir()
        with lzma.open(shipped / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            text = file.read(150_000)
        (Path(folder) / "a.txt").write_text(text, "utf-8")
    shutil.copytree("books", "novels")
    novel = Path("books/a.txt").read_text("utf-8")
    for name in ("held-out.txt", "novel.txt"):
        Path(name).write_text(novel[:9000])
    Path("sentences.txt").write_text("The bank of the river.\nA bank that lends.\n")
    uses = "river\tThe bank of the river.\nmoney\tA bank lends.\n"
    Path("bank.txt").write_text(uses + uses.replace(".", "!"))
    Path("my-entities.txt").write_text("刘备\n曹操\n")
    Path("glue/SST-2").mkdir(parents=True)
    rows = "".join(f"good {n}\t1\nbad {n}\t0\n" for n in range(8))
    for name in ("glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", "new.tsv"):
        Path(name).write_text(f"sentence\tlabel\n{rows}")
    for name in ("reviews.csv", "dev.csv"):
        rows = "".join(f"good {n},5\nbad {n},1\n" for n in range(8))
        Path(name).write_text(f"review,stars\n{rows}")
    for name in ("bert", "gpt2"):
        exported.export(Path(name), name)


def test_what_is_not_run_is_on_a_page():
    found = {key for page in guides.shown() for key in not_run(page.argv)}
    assert found == {*NOT_RUN}


@pytest.mark.long
@pytest.mark.probe
@pytest.mark.timeout(1800)
def test_the_commands_of_pages_and_the_python_of_the_readme_run(world, capsys):
    """With small settings, in order, in one directory."""
    for first in (
        "prepare bert_tiny --text books/*.txt --corpus corpora/books",
        "pretrain bert_modern_tiny --corpus corpora/books --workdir runs/modern",
    ):
        assert main(small(first.split())) == 0
    shutil.copytree("runs/modern", "runs/modern-s1")
    page_of: dict[str, str] = {}
    pages = [page for page in guides.shown() if "launch" not in page.page]
    for page, argv in sorted(pages, key=lambda each: each.page != "README.md"):
        if not_run(argv):
            continue
        # Different pages have different runs, and different corpora, of one name.
        made = "--corpus" if argv[0] == "prepare" else "--workdir"
        if made in argv:
            directory = argv[argv.index(made) + 1]
            if page_of.get(directory) != page or made == "--corpus":
                shutil.rmtree(directory, ignore_errors=True)
            page_of[directory] = page
        assert main(small(argv)) == 0, (page, argv, capsys.readouterr().err)
    readme = guides.PAGES[0].read_text("utf-8")
    python = readme.split("## Python\n")[1].split("\n## ")[0]
    exec(textwrap.dedent(python), {})
