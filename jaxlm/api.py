"""The verbs of the command line as functions: `jaxlm.pretrain`, `jaxlm.load`, …

Each takes the flags of its verb as keyword arguments, dotted or nested, and runs the
same code. Nothing heavy is imported before a function is called.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from jaxlm.config import FinetuneConfig, RunConfig
    from jaxlm.convert import Dtype, Format
    from jaxlm.open import Model, Run
    from jaxlm.tasks.finetuned import Finetuned
    from jaxlm.text.corpus import Corpus

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]


def prepare(
    recipe: "str | RunConfig", *, text: Paths, corpus: Path, **settings: Any
) -> "Corpus":
    """Text → tokenizer → corpus, as `jaxlm prepare`.

    >>> corpus = jaxlm.prepare("bert_tiny", text="books/*.txt", corpus="corpora/books",
    ...                        model={"vocab_size": 200})
    >>> corpus.manifest.vocab_size
    200
    """
    from jaxlm.cli import pretrain as verb
    from jaxlm.cli.settings import arguments, config_of
    from jaxlm.config import RunConfig

    given = {"text": text, "corpus": corpus, **settings}
    config = config_of(RunConfig, recipe, "prepare")
    return verb.prepare_corpus(arguments(verb.Prepare, given, config))


def pretrain(
    recipe: "str | RunConfig | None" = None,
    *,
    workdir: Path,
    text: Paths = (),
    corpus: Path | None = None,
    steps: int | None = None,
    **settings: Any,
) -> "Run[Model]":
    """Train a model on a corpus, or resume a run, as `jaxlm pretrain`.

    The corpus is prepared from `text` if it is missing. A recipe is a name, a file or a
    `RunConfig`; with `fork="RUN@STEP"` there is none. Settings are those of `jaxlm
    pretrain --help`: `batch=32`, `optim={"peak": 1e-3}` or `**{"optim.peak": 1e-3}`.

    >>> run = jaxlm.pretrain("bert_tiny", corpus="corpora/books", workdir="runs/tiny",
    ...                      steps=2, batch=4, length=32, model={"vocab_size": 200})
    no evaluation: 0 held-out documents, ...
    step 2/2  loss ...
    >>> run.step, run.metrics[-1]["step"]
    (2, 2)
    >>> run.model.embed("The bank of the river.").shape
    (128,)
    """
    from jaxlm.cli import pretrain as verb
    from jaxlm.cli.settings import arguments, command, config_of
    from jaxlm.config import RunConfig

    own = {"workdir": workdir, "text": text or None, "corpus": corpus, "steps": steps}
    given = {**own, **settings}
    if fork := settings.get("fork"):
        hosts = str(settings.get("hosts", "auto"))
        where = str(fork), os.fspath(workdir), hosts, str(recipe or "")
        parent = verb.parent_of(*where)
        args = verb.of_fork(arguments(verb.Pretrain, given, parent), parent)
    else:
        config = config_of(RunConfig, recipe, "pretrain")
        args = arguments(verb.Pretrain, given, config)
    outcome = verb.pretrain(args, command("pretrain", recipe, given))
    from jaxlm.open import Run, load

    return Run(args.workdir, *outcome, load)


def load(
    directory: Path,
    *,
    step: int | None = None,
    device: "str | jax.Device | None" = None,
    dtype: "Dtype" = "float32",
) -> "Model":
    """The model of a run or model directory.

    A run gives its newest checkpoint, or that of a `step` that it keeps. `device` is
    "cpu", "gpu:1" or one of `jax.devices()`.

    >>> model = jaxlm.load("runs/tiny")
    >>> model
    <BERT: 2 layers of width 128, ... parameters in float32; runs/tiny at step 2>
    >>> len(model.fill("She was very [MASK] to see him.", top_k=3)[0])
    3
    """
    from jaxlm.open import load

    return load(directory, step=step, device=device, dtype=dtype)


def evaluate(directory: Path, **settings: Any) -> dict[str, float]:
    """Loss and accuracy beside their baselines, as `jaxlm evaluate`: of a model on
    `text` or the held-out documents of a `corpus`, of a task's on `data`.

    >>> figures = jaxlm.evaluate("runs/tiny", text="books/*.txt", rows=4)
    >>> figures["mlm_loss"] > 0
    True
    """
    from jaxlm.cli import evaluate as verb
    from jaxlm.cli.settings import arguments, flattened

    given = {"directory": directory, **settings}
    flags = [f"--{name}" for name, _ in flattened(settings)]
    return verb.evaluate(arguments(verb.Evaluate, given), flags)[1]


def finetune(
    recipe: "str | FinetuneConfig",
    *,
    init: Path,
    data: Path,
    workdir: Path,
    **settings: Any,
) -> "Run[Finetuned]":
    """Train a pretrained model for a task, or resume, as `jaxlm finetune`.

    >>> run = jaxlm.finetune("sst2", init="runs/tiny", data="reviews",
    ...                      workdir="runs/reviews", batch=8, task={"epochs": 1})
    parameters of runs/tiny at step 2
    ...
    >>> figures, _ = run.model.evaluate("reviews/dev.tsv")
    >>> 0 <= figures["accuracy"] <= 1
    True
    """
    from jaxlm.cli import finetune as verb
    from jaxlm.cli.settings import arguments, command, config_of
    from jaxlm.config import FinetuneConfig

    given = {"init": init, "data": data, "workdir": workdir, **settings}
    config = config_of(FinetuneConfig, recipe, "finetune")
    hosts = str(settings.get("hosts", "auto"))
    where = os.fspath(workdir), os.fspath(init), hosts
    config, tokenizer = verb.with_model(config, *where)
    args = arguments(verb.Finetune, given, config)
    outcome = verb.finetune(args, tokenizer, command("finetune", recipe, given))
    from jaxlm.open import Run, open_task

    return Run(args.workdir, *outcome, open_task)


def predict(directory: Path, *, data: Path, out: Path, **settings: Any) -> int:
    """Write a fine-tuned model's answers for each row of a file, as `jaxlm predict`;
    returns their number.

    >>> jaxlm.predict("runs/reviews", data="reviews/dev.tsv", out="answers.tsv")
    8
    """
    from jaxlm.cli import evaluate as verb
    from jaxlm.cli.settings import arguments

    given = {"directory": directory, "data": data, "out": out, **settings}
    count, _ = verb.predict(arguments(verb.Predict, given))
    return count


def export(
    directory: Path,
    *,
    to: "Format",
    out: Path,
    dtype: "Dtype" = "float32",
    verify: bool = False,
    **settings: Any,
) -> bool:
    """Write a model for other programs, as `jaxlm export`; returns whether all is
    within the tolerance that `verify` prints.

    >>> jaxlm.export("runs/tiny", to="hf", out="models/tiny")
    True
    """
    from jaxlm.cli import weights as verb
    from jaxlm.cli.settings import arguments

    own = {"to": to, "out": out, "dtype": dtype, "verify": verify}
    args = arguments(verb.Export, {"directory": directory, **own, **settings})
    with contextlib.redirect_stdout(sys.stderr):
        return verb.export(args)


def import_(
    directory: Path,
    *,
    out: Path,
    dtype: "Dtype" = "float32",
    verify: bool = False,
    **settings: Any,
) -> bool:
    """Write a model directory from the weights of another program, as `jaxlm import`
    (in Python, `import` is a keyword); returns whether all is within the tolerance that
    `verify` prints. `jaxlm.load` opens the directory.

    >>> jaxlm.import_("models/tiny", out="models/mine")
    True
    >>> jaxlm.load("models/mine")
    <BERT: 2 layers of width 128, ... parameters in float32; models/mine>
    """
    from jaxlm.cli import weights as verb
    from jaxlm.cli.settings import arguments

    own = {"out": out, "dtype": dtype, "verify": verify}
    args = arguments(verb.Import, {"directory": directory, **own, **settings})
    with contextlib.redirect_stdout(sys.stderr):
        return verb.import_weights(args)
