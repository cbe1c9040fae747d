"""A fine-tuning run: a run whose rows are a task's."""

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
    """What a pretrained model learns, and the columns of its files."""

    kind: Kind = "class"
    """class: classify one or two texts; number: regression; choice: multiple choice;
    tokens: tag each word; spans: answer a question by a span of a document."""
    text: str = "sentence"
    """Column of the text: its name in the header, its key in JSONL, or its number from
    0 in files without a header."""
    pair: str = ""
    """Column of the second text; empty: there is one text. Choice: what stands between
    the text and each alternative, SWAG's sent2 or RACE's question."""
    choices: tuple[str, ...] = ()
    """Choice: columns of the alternatives; in JSONL also one column of lists."""
    label: str = "label"
    """Column of the class, of the number, or of the right alternative."""
    labels: tuple[str, ...] = ()
    """Classes in order; empty: those of the training file, sorted. Choice: names of the
    alternatives; empty: 0, 1, … or A, B, … as in the training file."""
    metric: Metric = "accuracy"
    """Figure on the dev file by which the best checkpoint is kept. For tags: entity_f1
    reads them as entities in BIO, BIOES or BMES, accuracy takes any tags."""
    both_orders: bool = False
    """Read two texts in both orders and add the vectors of the two rows: GPT-1's
    similarity, which does not depend on the order."""
    pooling: Literal["pooler", "cls", "mean", "max", "attention", "last"] = "pooler"
    """How a row becomes one vector: BERT's pooler (tanh of a dense layer on [CLS]),
    [CLS] itself, the mean, the maximum or learnt weights of all tokens, or the last
    token, which is a GPT's extract token."""
    mix: Literal["none", "input", "both"] = "none"
    """What is read from the model: none: its last layer; input: ELMo's learnt mix of
    all layers, γ Σ softmax(w) h; both: a second mix beside the output of the body."""
    layers: tuple[int, ...] = ()
    """Layers that are mixed, 0 the embedding and -1 the last; empty: all."""
    normalise: bool = False
    """Bring each layer to mean 0 and variance 1 over a batch before it is mixed."""
    penalty: float = 0.0
    """λ of λ‖w‖², added to the loss: ELMo's 0.001 leaves a mix free, 1 keeps it near
    the plain mean."""
    body: Literal["none", "bilstm"] = "none"
    """Layers between the model and the head."""
    width: int = 200
    """Cells of the BiLSTM in each direction."""
    depth: int = 1
    """Layers of the BiLSTM."""
    dropout: float = -1.0
    """Dropout rate on the inputs of the body's layers and of the head; below 0:
    model.dropout."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights, truncated at 2 σ as in Google's
    code unless the model is a GPT. A narrow model learns sooner with more, say 0.05."""
    lm_weight: float = 0.0
    """GPT: weight λ of the language-modelling loss of the same rows; 0: none."""
    question: int = 64
    """Spans: most tokens of a question."""
    stride: int = 128
    """Spans: tokens by which the window over a document moves."""
    answer: int = 30
    """Spans: most tokens of an answer."""
    unanswerable: bool = False
    """Spans: a question may have no answer (SQuAD 2.0)."""
    null_threshold: float = 0.0
    """Spans: give no answer if the null score is above the best span's by more than
    this. evaluate and predict use the threshold that was best on the dev file."""
    rules: Literal["squad", "cmrc"] = "squad"
    """Spans: rules of EM and F1; cmrc counts Chinese by characters."""
    pack: bool = True
    """Pack several examples into one row if the model is a BERT, each example is one
    row and task.pooling is pooler, cls or mean. Other rows are padded, in batches of
    similar length."""
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 384, 512)
    """Lengths that rows are padded to, up to --length."""
    layer_decay: float = 1.0
    """Rate of a layer as a share of that of the layer above it."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained: regular expressions over whole paths, for
    example 'embed/.*'; jaxlm show lists the paths. A model that is frozen as a whole
    runs without dropout."""
    fresh: tuple[str, ...] = ()
    """Parameters that start at random instead of from the model, to compare with
    pretraining; regular expressions as in freeze."""
    limit: int = 0
    """Read only the first examples of the training file; 0: all."""
    epochs: float = 3.0
    """Passes over the training file, which set steps; 0: use --steps."""
    warmup: float = 0.1
    """Share of the steps with a rising rate, which sets optim.warmup."""
    evaluations: int = 1
    """Evaluations on the dev file in each pass, which set eval_every; 0: none."""
    patience: int = 0
    """End the run after so many evaluations without a better metric; 0: never."""

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
