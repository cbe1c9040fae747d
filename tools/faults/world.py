"""A tiny world to harm: text, a corpus, a run half done, exports, a fine-tuned model.

Everything is made by the command line in a minute, with the same bytes each time.
"""

import lzma
from dataclasses import dataclass
from pathlib import Path

import jaxlm
from tools.faults.commands import Ended, run

STEPS, STOP = 12, 8
_SMALL = "--holdout .3 --processes 1 --steps 12 --save_every 4 --batch 8 --eval_every 0"
_MODEL = {
    "bert": "--model.num_layers 2 --model.d_model 16 --model.num_heads 2"
    " --model.d_ff 32 --model.vocab_size 300 --length 32 --predictions 5"
    " --optim.warmup 2",
    "gpt2": "--model.num_layers 2 --model.d_model 16 --model.num_heads 2"
    " --model.d_ff 32 --model.vocab_size 300 --model.max_length 32 --length 32"
    " --optim.warmup 2",
    "elmo": "--length 8",
}


@dataclass(frozen=True)
class World:
    """Where things are; `make` makes them."""

    here: Path

    @property
    def text(self) -> Path:
        """A few pages of Jane Austen."""
        return self.here / "text.txt"

    def pretrain(self, name: str, workdir: Path, *more: str) -> tuple[str, ...]:
        """The command that trains a family to STEPS, or resumes it."""
        corpus = self.here / f"corpus-{name}"
        return (
            *("pretrain", f"{name}_tiny", "--corpus", str(corpus)),
            *("--workdir", str(workdir), *_SMALL.split(), *_MODEL[name].split()),
            *more,
        )

    def prepare(self, corpus: Path, *more: str) -> tuple[str, ...]:
        """The command that prepares the corpus of the BERT."""
        text = ("--text", str(self.text), "--holdout", ".3")
        size = ("--model.vocab_size", "300", "--processes", "2")
        return ("prepare", "bert_tiny", *text, "--corpus", str(corpus), *size, *more)

    def finetune(self, workdir: Path, *more: str) -> tuple[str, ...]:
        """The command that fine-tunes the exported BERT for two classes."""
        data = ("--data", str(self.here / "task.tsv"), "--dev", f"{self.here}/task.tsv")
        init = ("--init", str(self.here / "export-bert"), "--workdir", str(workdir))
        rest = ("--length", "16", "--batch", "8", "--task.epochs", "2")
        return ("finetune", "sst2", *data, *init, *rest, "--save_every", "2", *more)

    def use(self, name: str, model: Path) -> tuple[str, ...]:
        """A command that uses a model, whose output depends on every weight."""
        if name == "bert":
            return ("fill", str(model), "It is a [MASK] truth that they were happy.")
        if name == "gpt2":
            flags = ("--max_tokens", "12", "--json", "true")
            return ("generate", str(model), "--prompt", "It is", *flags)
        text = ("--text", str(self.here / "line.txt"))
        return ("embed", str(model), *text, "--out", f"{model}.npz")

    def make(self) -> None:
        """Make everything; a failure ends the program, for nothing can be judged."""
        self.here.mkdir(parents=True, exist_ok=True)
        shipped = Path(jaxlm.__file__).parent / "text" / "shipped" / "austen.txt.xz"
        with lzma.open(shipped, "rt") as file:
            self.text.write_text(file.read(60_000))
        (self.here / "line.txt").write_text("It is a truth acknowledged .\n")
        rows = (f"{'good' if i % 2 else 'bad'} thing {i}\t{i % 2}" for i in range(40))
        (self.here / "task.tsv").write_text(
            "sentence\tlabel\n" + "\n".join(rows) + "\n"
        )
        for name in _MODEL:
            text = ("--text", str(self.text), "--stop", str(STOP))
            sound(run(*self.pretrain(name, self.here / f"run-{name}", *text)))
            to = "elmo" if name == "elmo" else "hf"
            out = str(self.here / f"export-{name}")
            sound(run("export", f"{self.here}/run-{name}", "--to", to, "--out", out))
        sound(run(*self.finetune(self.here / "task")))


def sound(ended: Ended) -> Ended:
    """The same, if it ended well."""
    if ended.status:
        raise SystemExit(f"{' '.join(ended.argv)}\n{ended.err}")
    return ended
