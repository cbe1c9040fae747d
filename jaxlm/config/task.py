"""The settings of a fine-tuning run: those of any run, and those of its task."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from jaxlm.config.checks import Checked
from jaxlm.config.run import Count, RunConfig

Kind = Literal["class", "number", "choice", "tokens", "spans"]
Rules = Literal[
    "squad",
    "cmrc",
    "mlqa_ar",
    "mlqa_de",
    "mlqa_en",
    "mlqa_es",
    "mlqa_hi",
    "mlqa_vi",
    "mlqa_zh",
]
_METRICS: dict[str, tuple[str, ...]] = {
    "class": ("accuracy", "f1", "macro_f1", "mcc"),
    "number": ("pearson", "spearman"),
    "choice": ("accuracy",),
    "tokens": ("entity_f1", "accuracy"),
    "spans": ("f1", "exact", "best_f1"),
}


@dataclass(frozen=True)
class TaskConfig(Checked, at="task."):
    """The task that a pretrained model is trained for, and the columns of its files."""

    kind: Kind = "class"
    """class: classify one or two texts; number: regression; choice: multiple choice;
    tokens: tag each word; spans: answer a question by a span of a document."""
    text: str = "sentence"
    """Column of the text: name in the header, key in JSONL, or number from 0."""
    pair: str = ""
    """Column of the second text; empty: none. Choice: column of the text between the
    first text and each alternative, SWAG's sent2 or RACE's question."""
    choices: tuple[str, ...] = ()
    """Choice: columns of the alternatives; in JSONL also one column of lists."""
    quoted: bool = False
    """TSV: fields may be quoted as in CSV, as csv and pandas write them."""
    label: str = "label"
    """Column of the class, of the number, or of the right alternative."""
    labels: tuple[str, ...] = ()
    """Classes in order; empty: those of the training file, sorted. Choice: names of the
    alternatives; empty: 0, 1, … or A, B, … as in the training file."""
    metric: str = "accuracy"
    """Figure on the dev file by which the best checkpoint is kept. class: accuracy, f1,
    macro_f1 or mcc; number: pearson or spearman; choice: accuracy; tokens: entity_f1,
    for tags in BIO, BIOES or BMES, or accuracy; spans: f1 or exact, or best_f1 if some
    questions have no answer (SQuAD 2.0)."""
    both_orders: bool = False
    """Read two texts in both orders and add the vectors: GPT-1's similarity."""
    pooling: Literal["pooler", "cls", "mean", "max", "attention", "last"] = "pooler"
    """How a row becomes one vector: BERT's pooler (tanh of a dense layer on [CLS]),
    [CLS] itself, the mean, the maximum or learnt weights of all tokens, or the last
    token, which is a GPT's extract token."""
    mix: Literal["none", "input", "both"] = "none"
    """What the task reads. none: the last layer; input: ELMo's learnt mix of layers,
    γ Σ softmax(w) h; both: a second mix too, beside the output of the body."""
    layers: tuple[int, ...] = ()
    """Layers in the mix, 0: the embedding, -1: the last layer; empty: all."""
    normalise: bool = False
    """Bring each layer to mean 0 and variance 1 over a batch before it is mixed."""
    penalty: Annotated[float, "[0, inf)"] = 0.0
    """λ in the term λ‖w‖² of the loss: .001 leaves a mix free, 1 near the mean."""
    body: Literal["none", "bilstm"] = "none"
    """Layers between the model and the head."""
    width: Count = 200
    """Cells of the BiLSTM in each direction."""
    depth: Count = 1
    """Layers of the BiLSTM."""
    dropout: Annotated[float, "[-1, 1)"] = -1.0
    """Dropout of the inputs of the body's layers and of the head; -1: model.dropout."""
    head_std: Annotated[float, "(0, inf)"] = 0.02
    """Standard deviation of the head's initial weights, truncated at 2 σ as in Google's
    code, except for GPTs. A narrow model learns sooner with a larger one, say .05."""
    lm_weight: Annotated[float, "[0, inf)"] = 0.0
    """GPT: weight λ of the language-modelling loss of the same rows; 0: none."""
    question: Count = 64
    """Spans: most tokens of a question."""
    stride: Count = 128
    """Spans: tokens by which the window over a document moves."""
    answer: Count = 30
    """Spans: most tokens of an answer."""
    null_threshold: float = 0.0
    """Spans: give no answer if the null score is above the best span's by more than
    this. evaluate and predict use the threshold that was best on the dev file."""
    rules: Rules = "squad"
    """Spans: rules of EM and F1. cmrc: Chinese by characters; mlqa_de: MLQA's, without
    the articles of that language, and mlqa_zh by characters."""
    pack: bool = True
    """Pack several examples into a row of a BERT, for task.pooling pooler, cls or mean.
    Other rows are padded, in batches of similar length."""
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 384, 512)
    """Lengths that rows are padded to, up to --length."""
    layer_decay: Annotated[float, "(0, 1]"] = 1.0
    """Learning rate of a layer, relative to the layer above it."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained: regular expressions over whole paths as in
    jaxlm show, 'embed/.*'. A model that is frozen as a whole runs without dropout."""
    fresh: tuple[str, ...] = ()
    """Parameters that start at random, for comparison; regular expressions as above."""
    limit: Annotated[int, "[0, inf)"] = 0
    """Read only the first examples of the training file; 0: all."""
    epochs: Annotated[float, "(0, inf)"] = 3.0
    """Passes over the training file, which set steps."""
    patience: Annotated[int, "[0, inf)"] = 0
    """End the run after this many evaluations without a better metric; 0: never."""

    def _mistakes(self) -> Iterator[str]:
        classes, text = len(self.labels), self.kind not in ("tokens", "spans")
        if len(set(self.labels)) < classes:
            yield f"task.labels = {self.labels} names a class twice"
        if self.metric not in (known := _METRICS[self.kind]):
            this = f"task.metric = {self.metric} is none of task.kind = {self.kind}"
            yield f"{this}: it has {', '.join(known)}"
        if self.kind == "class" and self.metric == "f1" and classes not in (0, 2):
            this = f"task.metric = f1 needs two classes, the task has {classes}"
            yield f"{this}: pass --task.metric macro_f1 or accuracy"
        pairs = self.pair and self.kind in ("class", "number")
        if self.both_orders and not pairs:
            yield "task.both_orders is of two texts that get a class or number"
        if (self.kind == "choice") != bool(self.choices):
            columns = "task.choices, the columns of the alternatives"
            yield f"task.kind = choice and {columns}, go together"
        if self.quoted and not text:
            yield f"task.quoted is of TSV, and files of task.kind = {self.kind} are not"
        if sorted(set(self.buckets)) != list(self.buckets or (0,)):
            yield f"task.buckets = {self.buckets} do not rise"
        if self.mix == "none" and (self.layers or self.normalise or self.penalty):
            these = "task.layers, task.normalise and task.penalty"
            yield f"{these} are of a mix: pass --task.mix input"
        if self.mix == "both" and self.body == "none":
            this = "task.mix = both is of the input and the output of a body"
            yield f"{this}: pass --task.body bilstm, or --task.mix input"
        changed = self.mix != "none" or self.body != "none"
        if changed and text and self.pooling == "pooler":
            this = "task.pooling = pooler is of the last layer, not of a mix or a body"
            yield f"{this}: pass --task.pooling max, mean, attention or cls"

    @property
    def unanswerable(self) -> bool:
        """Whether questions may have no answer."""
        return self.metric == "best_f1"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """All settings of one fine-tuning run; `model` is the model that `init` names."""

    finetunes: ClassVar[bool] = True

    task: TaskConfig = field(default_factory=TaskConfig)
    eval_every: int | float = 1.0

    @property
    def drops(self) -> bool:
        """Whether a step draws dropout."""
        return max(self.model.dropout, self.task.dropout) > 0
