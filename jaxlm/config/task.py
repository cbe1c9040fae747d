"""A fine-tuning run: a run whose rows are a task's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxlm.config.data import DataConfig
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
    pooling: Literal["pooler", "cls", "mean", "max", "attention", "last"] = "pooler"
    """A row as one vector: BERT's pooler (tanh of a dense layer on [CLS]), [CLS]
    itself, the mean, the maximum or a learnt weighting of all tokens, or the last one,
    a GPT's extract token."""
    mix: Literal["none", "input", "both"] = "none"
    """What is read of the model: its last layer, or ELMo's learnt mix of its layers,
    γ Σ softmax(w) h; both: a second mix also stands beside the output of the body."""
    layers: tuple[int, ...] = ()
    """Layers that are mixed, 0 the embedding and -1 the last; empty: all."""
    normalise: bool = False
    """Bring each layer to mean 0 and variance 1 over a batch before it is mixed."""
    penalty: float = 0.0
    """λ of λ‖w‖², added to the loss: ELMo's 0.001 leaves a mix free, 1 keeps it near
    the plain mean."""
    body: Literal["none", "bilstm"] = "none"
    """What stands between what is read of the model and the head."""
    width: int = 200
    """Of a BiLSTM: cells in each direction."""
    depth: int = 1
    """Of a BiLSTM: layers."""
    dropout: float = -1.0
    """Share dropped of what each layer of the body and the head read; below 0: as in
    the model, model.dropout."""
    head_std: float = 0.02
    """σ of the normal distribution that the head's weights start from; a BERT's is cut
    at 2 σ, as Google's. A narrow model learns much sooner with more, 0.05 say."""
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
    pack: bool = True
    """Put several examples of a batch into one row where the model is a BERT, an
    example is one row and --task.pooling, where it matters, is pooler, cls or mean;
    other rows are padded, and those of a batch are of like length."""
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 384, 512)
    """Lengths that rows are padded to, the shortest that holds them; up to --length."""
    layer_decay: float = 1.0
    """Rate of a layer as a share of that of the layer above it."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: regular expressions over whole paths, for
    example 'embed/.*'; jaxlm show lists the paths. A model of which all stay is read
    without dropout."""
    fresh: tuple[str, ...] = ()
    """Parameters that are not taken from the model but start at random: what
    pretraining is compared with. Expressions as in freeze."""
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
        for name in (
            "limit",
            "epochs",
            "evaluations",
            "patience",
            "lm_weight",
            "penalty",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} = {getattr(self, name)} is negative")
        if not self.head_std > 0:
            raise UserError(f"task.head_std = {self.head_std} is not positive")
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
        self._check_body()
        for name in ("question", "stride", "answer", "width", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"task.{name} = {getattr(self, name)} must be positive")
        if not self.buckets or sorted(set(self.buckets)) != list(self.buckets):
            raise UserError(f"task.buckets = {self.buckets} do not rise")

    def _check_body(self) -> None:
        if self.mix == "none" and (self.layers or self.normalise or self.penalty):
            raise UserError(
                "task.layers, task.normalise and task.penalty are of a mix: pass "
                "--task.mix input"
            )
        if self.mix == "both" and self.body == "none":
            raise UserError(
                "task.mix = both is of the input and the output of a body: pass "
                "--task.body bilstm, or --task.mix input"
            )
        changed = self.mix != "none" or self.body != "none"
        pooled = self.kind not in ("tokens", "spans")
        if changed and pooled and self.pooling == "pooler":
            raise UserError(
                "task.pooling = pooler is of the last layer, and neither of a mix nor "
                "of a body: pass --task.pooling max, mean, attention or cls"
            )
        if self.dropout >= 1:
            raise UserError(f"task.dropout = {self.dropout} is not below 1")


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning run; `model` is that of `init`."""

    task: TaskConfig = field(default_factory=TaskConfig)

    def data_kind(self) -> type[DataConfig]:
        """The rows are a task's, whatever the model."""
        return DataConfig
