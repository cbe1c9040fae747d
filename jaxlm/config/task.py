"""A fine-tuning run: a run whose rows are a task's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxlm.config.run import RunConfig
from jaxlm.types import UserError

Kind = Literal["class", "number", "choice", "tokens", "spans"]
Metric = Literal[
    "accuracy",
    "f1",
    "macro_f1",
    "mcc",
    "pearson",
    "spearman",
    "entity_f1",
    "exact",
    "best_f1",
]
_METRICS: dict[str, tuple[str, ...]] = {
    "class": ("accuracy", "f1", "macro_f1", "mcc"),
    "number": ("pearson", "spearman"),
    "choice": ("accuracy",),
    "tokens": ("entity_f1", "accuracy"),
    "spans": ("f1", "exact", "best_f1"),
}


@dataclass(frozen=True)
class TaskConfig:
    """What a pretrained model is to tell, and where its files say it."""

    kind: Kind = "class"
    """Of a text or of two one of several classes, or a number; of several ways to go on
    the right one; of each word a tag; of a question the span of a document that
    answers it."""
    text: str = "sentence"
    """Column of the text: its name in the header or the key in JSONL; a number, from 0,
    of files without a header."""
    pair: str = ""
    """Column of the second text; empty: there is one text. Choice: of what stands
    between the text and each alternative, SWAG's sent2, RACE's question."""
    choices: tuple[str, ...] = ()
    """Choice: columns of the alternatives; of JSONL also one that holds a list."""
    label: str = "label"
    """Column of the class or number, or of which alternative is right."""
    labels: tuple[str, ...] = ()
    """Classes in order; empty: those of the training file, sorted. Choice: what the
    alternatives are called; empty: 0, 1, … or A, B, …, as the training file does."""
    metric: Metric = "accuracy"
    """Figure on the dev file whose best checkpoint is kept. Of tags, entity_f1: they
    are of entities, in BIO, BIOES or BMES; accuracy: any."""
    both_orders: bool = False
    """Two texts in both orders, the vectors of the two rows added: GPT-1's similarity,
    equal whichever comes first."""
    pooling: Literal["pooler", "cls", "mean", "last"] = "pooler"
    """A row as one vector: BERT's pooler (tanh of a dense layer on [CLS]), [CLS]
    itself, the mean of all tokens, or the last one, a GPT's extract token."""
    lm_weight: float = 0.0
    """GPTs: share λ of the language-modelling loss of the same rows in what is
    minimised; 0: none of it."""
    question: int = 64
    """Spans: most tokens of a question."""
    stride: int = 128
    """Spans: tokens that the window over a document moves by."""
    answer: int = 30
    """Spans: most tokens of an answer."""
    unanswerable: bool = False
    """Spans: there may be no answer (SQuAD 2.0)."""
    null_threshold: float = 0.0
    """Spans: no answer where its score is above the best one's by more than that.
    evaluate and predict take the one that was best on the dev file."""
    rules: Literal["squad", "cmrc"] = "squad"
    """Spans: whose EM and F1; cmrc counts Chinese by characters."""
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 384, 512)
    """Lengths that rows are padded to, the shortest that holds them; up to --length."""
    layer_decay: float = 1.0
    """Rate of a layer as a share of that of the layer above it."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: regular expressions over whole paths, for
    example 'embed/.*'; jaxlm show lists the paths."""
    limit: int = 0
    """First so many examples of the training file; 0: all."""
    epochs: float = 3.0
    """Passes over the training file; steps follows from it. 0: as --steps says."""
    warmup: float = 0.1
    """Share of the steps that the rate rises; optim.warmup follows from it."""
    evaluations: int = 1
    """On the dev file in each pass; eval_every follows from it. 0: none."""
    patience: int = 0
    """Evaluations without a better metric after which the run ends; 0: none end it."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"task.warmup = {self.warmup} is not in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"task.layer_decay = {self.layer_decay} is not in (0, 1]")
        for name in ("limit", "epochs", "evaluations", "patience", "lm_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} = {getattr(self, name)} is negative")
        if len(set(self.labels)) != len(self.labels):
            raise UserError(f"task.labels = {self.labels} names a class twice")
        if self.metric not in _METRICS[self.kind]:
            raise UserError(
                f"task.metric = {self.metric} is none of task.kind = {self.kind}: "
                f"it has {', '.join(_METRICS[self.kind])}"
            )
        if (self.metric == "best_f1") != (self.kind == "spans" and self.unanswerable):
            raise UserError(
                "task.metric = best_f1 and task.unanswerable go together, SQuAD 2.0's"
            )
        if self.both_orders and not (self.pair and self.kind in ("class", "number")):
            raise UserError(
                "task.both_orders is of two texts that get a class or number"
            )
        if (self.kind == "choice") != bool(self.choices):
            raise UserError(
                "task.kind = choice and task.choices, the columns of the alternatives, "
                "go together"
            )
        for name in ("question", "stride", "answer"):
            if getattr(self, name) < 1:
                raise UserError(f"task.{name} = {getattr(self, name)} must be positive")
        if not self.buckets or sorted(set(self.buckets)) != list(self.buckets):
            raise UserError(f"task.buckets = {self.buckets} do not rise")


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning run; `model` is that of `init`."""

    task: TaskConfig = field(default_factory=TaskConfig)
