"""A fine-tuning run: a run whose rows are a task's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxlm.config.run import RunConfig
from jaxlm.types import UserError

Metric = Literal["accuracy", "f1", "macro_f1", "mcc", "pearson", "spearman"]


@dataclass(frozen=True)
class TaskConfig:
    """What a pretrained model is to tell, and where its files say it."""

    kind: Literal["class", "number"] = "class"
    """Of a text or of two: one of several classes, or a number."""
    text: str = "sentence"
    """Column of the text: its name in the header or the key in JSONL; a number, from 0,
    of files without a header."""
    pair: str = ""
    """Column of the second text; empty: there is one text."""
    label: str = "label"
    """Column of the class or number."""
    labels: tuple[str, ...] = ()
    """Classes in order; empty: those of the training file, sorted."""
    metric: Metric = "accuracy"
    """Figure on the dev file whose best checkpoint is kept."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """A row as one vector: BERT's pooler (tanh of a dense layer on [CLS]), [CLS]
    itself, or the mean of all tokens."""
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 384, 512)
    """Lengths that rows are padded to, the shortest that holds them; up to --length."""
    limit: int = 0
    """First so many examples of the training file; 0: all."""
    epochs: float = 3.0
    """Passes over the training file; steps follows from it. 0: as --steps says."""
    warmup: float = 0.1
    """Share of the steps that the rate rises; optim.warmup follows from it."""
    evaluations: int = 1
    """On the dev file in each pass; eval_every follows from it. 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"task.warmup = {self.warmup} is not in [0, 1)")
        for name in ("limit", "epochs", "evaluations"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} = {getattr(self, name)} is negative")
        if len(set(self.labels)) != len(self.labels):
            raise UserError(f"task.labels = {self.labels} names a class twice")
        if (self.metric in ("pearson", "spearman")) != (self.kind == "number"):
            raise UserError(
                f"task.metric = {self.metric} is none of task.kind = {self.kind}: "
                "pearson and spearman are of numbers, the others of classes"
            )
        if not self.buckets or sorted(set(self.buckets)) != list(self.buckets):
            raise UserError(f"task.buckets = {self.buckets} do not rise")


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning run; `model` is that of `init`."""

    task: TaskConfig = field(default_factory=TaskConfig)
