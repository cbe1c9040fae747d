"""Settings of a whole run: text, data, optimiser, mesh, phases, logging."""

import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from jaxlm.config.checks import LARGEST_COUNT, Checked
from jaxlm.config.model import (
    AnyData,
    BertConfig,
    DataConfig,
    MaskedData,
    ModelConfig,
    wrong_levels,
)
from jaxlm.types import UserError

Count = Annotated[int, "[1, inf)"]


@dataclass(frozen=True)
class TextConfig(Checked, at="text."):
    """How text becomes tokens; fixed once a corpus is prepared."""

    tokenizer: Literal[
        "wordpiece", "byte_bpe", "sentencepiece", "gpt1_bpe", "words"
    ] = "wordpiece"
    """Vocabulary that `prepare` trains unless one is given; gpt1_bpe must be given."""
    lowercase: bool = True
    """Lower-case and strip accents, for WordPiece and words."""
    language: str = "en"
    """ISO 639-1 code of text without a label, by which sentences are split."""
    languages: tuple[str, ...] = ()
    """Labels that text may have (--text en:PATH); empty: any."""
    chinese: Literal["as_is", "simplified", "traditional"] = "as_is"
    """Characters that Chinese text is converted to while it is prepared, by OpenCC."""
    words: Literal["basic", "spacy", "space"] = "basic"
    """How words are cut. basic: by BERT's rules; spacy: as published for GPT-1's BPE,
    needs ftfy and spaCy; space: at white space, for text already cut into words."""
    unused: int = 0
    """[unusedN] entries added to a given vocabulary, which is smaller than the table of
    the model (ERNIE 1.0: 36)."""
    dialogues: bool = False
    """ERNIE: text is dialogues (.jsonl with "turns"), a row has turns of a dialogue,
    and the model predicts whether a turn is from another dialogue."""
    verbatim: bool = False
    """Decoders: keep spaces and line ends, do not split sentences; the only special
    token of a trained vocabulary is <|endoftext|>, behind all pieces."""

    def _mistakes(self) -> Iterator[str]:
        if self.dialogues and self.verbatim:
            yield "text.dialogues is for encoders, text.verbatim for decoders"
        rule = {"gpt1_bpe": "space", "words": "spacy"}.get(self.tokenizer)
        if self.words == rule:
            this = f"text.words = {self.words} cannot be with"
            yield f"{this} text.tokenizer = {self.tokenizer}: take basic"


@dataclass(frozen=True)
class OptimConfig(Checked, at="optim."):
    """Optimiser and learning-rate schedule."""

    name: Literal["bert_adam", "gpt1_adam", "adamw", "lamb", "adagrad", "muon"] = (
        "adamw"
    )
    """bert_adam: Google's, without bias correction; gpt1_adam: OpenAI's, whose bias
    correction is part of the rate; adagrad: TensorFlow's; muon: Muon for the hidden
    matrices of a transformer, AdamW for tables, heads, norms and biases."""
    peak: Annotated[float, "[0, inf)"] = 1e-4
    """Highest learning rate. muon: of all parameters; updates of matrices have the size
    of AdamW's, so AdamW's rate is a start, and small models take three times that."""
    warmup: Annotated[int | float, "[0, inf)"] = 0.1
    """Steps of linear warm-up; below 1: its share of all steps."""
    decay: Literal[
        "linear", "linear_kinked", "cosine", "constant", "wsd", "wsd_linear"
    ] = "linear"
    """Decay after warm-up, to 0 at the last step. linear_kinked: Google's, a line from
    step 0 that warm-up overrides: the rate drops by warmup / steps after warm-up. wsd:
    constant, then 1 − √ over the `cooldown` (Hägele et al. 2024); wsd_linear: a line.
    """
    cooldown: Annotated[int | float, "[0, inf)"] = 0.2
    """Steps that wsd decays for, the last of the run; below 1: their share of all
    steps. A run of constant rate is decayed from any checkpoint by --fork."""
    weight_decay: Annotated[float, "[0, inf)"] = 0.01
    """Decoupled weight decay, times the learning rate, of all parameters except biases
    and norms; muon: of matrices and tables alike."""
    clip: Annotated[float, "[0, inf)"] = 1.0
    """Largest global norm of the gradient, taken before the optimiser; 0: no clipping.
    """
    b1: Annotated[float, "[0, 1)"] = 0.9
    """Decay of the gradient's running mean (muon: of Adam's; its own is .95)."""
    b2: Annotated[float, "[0, 1)"] = 0.999
    """Decay of the squared gradient's running mean."""
    eps: Annotated[float, "[0, inf)"] = 1e-6
    """Added to the root of the second moment."""
    accumulator: Annotated[float, "[0, inf)"] = 1.0
    """Initial value of Adagrad's sum of squared gradients."""
    factor: Annotated[float, "(0, inf)"] = 1.0
    """Factor of the gradient before clipping; ELMo's original: the length of a row."""
    lazy: bool = False
    """AdamW with data.negatives: update only the rows of the softmax that a step reads.
    The moments of others stay, and they do not decay (torch's SparseAdam). False: a row
    without a gradient still moves by its momentum and decays, which needs all rows."""

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`."""
        if self.warmup >= 1:
            return int(self.warmup)
        # Any warm-up has at least one step: the first rate is 0, as in both releases.
        return max(int(steps * self.warmup), int(self.warmup > 0))

    def cooldown_steps(self, steps: int) -> int:
        """Steps that `wsd` decays for in a run of `steps`."""
        share = self.cooldown if self.cooldown >= 1 else steps * self.cooldown
        return round(share)

    @property
    def keeps_rows(self) -> bool:
        """Whether the optimiser leaves rows of a table without a gradient unchanged."""
        return self.lazy or (self.name == "adagrad" and not self.weight_decay)


@dataclass(frozen=True)
class MeshConfig(Checked, at="mesh."):
    """Number of devices along each mesh axis; -1 on one axis: all remaining devices."""

    replica: int = 1
    """Parts of a multi-slice job, as many as slices or a multiple; 1: as many. Only
    gradients go from one to another, once a step (with dropout, once a micro-batch)."""
    data: int = -1
    """Copies of the model in a step, each with its part of the batch. Between steps,
    each holds its part of parameters and optimiser state."""
    fsdp: int = 1
    """Parts that parameters and optimiser state are cut into; batch is cut too."""
    tensor: int = 1
    """Parts that heads, MLP and vocabulary are cut into."""

    @property
    def whole(self) -> bool:
        """Whether every device holds the whole model."""
        return self.fsdp == self.tensor == 1


@dataclass(frozen=True)
class LogConfig(Checked, at="log."):
    """What a run logs."""

    every: Count = 100
    """Steps between lines of metrics."""
    batches: bool = False
    """Write the SHA-256 of each global batch after the transforms."""
    tensorboard: bool = True
    """Write TensorBoard events."""


@dataclass(frozen=True, kw_only=True)
class Rows(Checked):
    """Shape of a batch: fields of a run, or of each phase of a run with phases."""

    length: Annotated[int, "[8, inf)"] = 128
    """Tokens in a row."""
    batch: Count = 256
    """Rows in the global batch."""
    predictions: Count = 20
    """Most masked tokens predicted in a row; a decoder predicts all tokens."""
    accumulate: Count = 1
    """Micro-batches that a batch is cut into."""

    def _mistakes(self) -> Iterator[str]:
        if self.batch % self.accumulate:
            micro = f"accumulate = {self.accumulate}"
            yield f"batch = {self.batch} is not a multiple of {micro}"


@dataclass(frozen=True, kw_only=True)
class Phase(Rows):
    """A part of training with its own batch shape; the optimiser state carries over."""

    until: int
    """Step at which this phase ends."""
    levels: tuple[float, ...] = ()
    """data.levels in this phase; empty: those of the run."""
    mask_rate: Annotated[float, "[0, 1)"] = 0.0
    """data.mask_rate in this phase, all along, but not in evaluations; 0: the run's."""
    causal_share: Annotated[float, "[0, 1]"] = 0.0
    """data.causal_share in this phase; 1: no words are masked; 0: that of the run."""

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        yield from wrong_levels("phases.levels", self.levels)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Rows):
    """All settings of one pretraining run."""

    finetunes: ClassVar[bool] = False

    model: ModelConfig = field(default_factory=BertConfig)
    text: TextConfig = field(default_factory=TextConfig)
    data: AnyData = field(default=typing.cast(AnyData, None))
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    log: LogConfig = field(default_factory=LogConfig)
    seed: Annotated[int, "[0, 4294967296)"] = 0
    """Seed of every random choice in the run."""
    smoothing: Annotated[float, "(0, 1]"] = 0.7
    """Exponent S by which languages are sampled, p ∝ (share of the text)^S, for rows
    and vocabulary; 1: in proportion to the text. No effect on a single language."""
    steps: Count = 1_000_000
    """Optimiser steps of the whole run, and of the learning-rate schedule."""
    stop: Annotated[int, "[0, inf)"] = 0
    """Save and end this invocation after that step; 0: run to `steps`."""
    phases: tuple[Phase, ...] = ()
    """Phases with their own batch shape; empty: one phase, of the run's own shape."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept."""
    keep_every: int | Literal["log"] = 0
    """Steps between checkpoints kept for good; log: 0, 1, 2, 4, 8, …; 0: none."""
    eval_every: Annotated[int | float, "[0, inf)"] = 1000
    """Steps between evaluations on held-out text; 0: never. Fine-tuning: 1 or less is
    a part of a pass over the training file; .25 evaluates four times in each pass."""
    eval_rows: Count = 1024
    """Most held-out rows of an evaluation during training."""
    max_skipped: Count = 20
    """Steps in a row that may be skipped, for gradients that are not finite or updates
    that go too far, before the run ends."""
    init: str = ""
    """Run or model directory whose parameters to start from. Without one, pretrain
    starts from random weights."""
    fork: str = ""
    """RUN@STEP: the checkpoint of another run to start from, optimiser included. Other
    flags are changes to the config of that run."""
    skip: tuple[str, ...] = ()
    """Batches to leave out: 1200:1400 are the 200 that take a run from step 1200 to
    step 1400. All other batches and all steps keep their numbers."""
    deterministic: bool = False
    """On a GPU: only kernels that give equal bits in each run, none of them chosen by
    timing, which is slower. On a CPU or a TPU this holds without it."""
    dropout_bits: Literal["threefry", "hash"] = "threefry"
    """Random bits of dropout. hash: other masks, as even and independent in tests, for
    less than half of the work. Neither depends on devices or mesh."""
    xla: tuple[str, ...] = ()
    """NAME=VALUE: options of XLA's compiler for the train step, beside jaxlm's own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of matrix products; parameters, norms, softmax and loss stay float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """Activations recomputed in the backward pass: none (on a TPU, without dropout, all
    other than products), all except products with weights, all."""
    attention: Literal["auto", "plain", "splash", "cudnn"] = "auto"
    """Kernel of attention. auto: splash on a TPU and cudnn on a GPU where they can be,
    else plain, which any device runs; the run says which it takes, and why."""

    def __post_init__(self) -> None:
        if self.data is None:
            object.__setattr__(self, "data", self._data_kind())
        super().__post_init__()

    @property
    def _data_kind(self) -> type[DataConfig]:
        return DataConfig if self.finetunes else self.model.data

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        kind = self._data_kind
        if type(self.data) is not kind:
            this = f"data is a {type(self.data).__name__}"
            yield f"{this}, this config takes a {kind.__name__}"
        if self.optim.name == "muon" and self.model.carries_state:
            yield "optim.name = muon is for transformers: take adamw"
        if self.eval_every % 1 and not (self.finetunes and self.eval_every < 1):
            yield f"eval_every = {self.eval_every} is not a number of steps"
        if not self.fork:  # its parent may have more steps
            for each in self.skip:
                yield from self.idle_skip(each)
        for each in self.xla:
            if not re.fullmatch(r"\w+=.+", each):
                yield f"xla = {each} is not NAME=VALUE"
        yield from self._in_texts()
        yield from self._in_phases()

    def _in_texts(self) -> Iterator[str]:
        """Pairs and dialogues where a row must be of texts."""
        data, model = self.data, typing.cast(Any, self.model)
        if not isinstance(data, MaskedData):
            return
        shares = data.causal_share, *(each.causal_share for each in self.phases)
        for name, value in (("packed", data.packed), ("causal_share", max(shares))):
            if value and (model.nsp or self.text.dialogues):
                rows, remedy = "model.nsp = True", "pass --model.nsp false"
                if self.text.dialogues:
                    rows, remedy = "text.dialogues = True", "take another recipe"
                yield f"data.{name} = {value} is for texts, {rows}: {remedy}"

    def _in_phases(self) -> Iterator[str]:
        done, at, rows = 0, "", self.all_phases[0].batch
        end = getattr(self.data, "mask_rate_end", 0.0)
        for i, phase in enumerate(self.all_phases):
            at = f"phases.{i}." if self.phases else ""
            if phase.until <= done:
                yield f"{at}until = {phase.until} does not follow {done}"
            done = phase.until
            if self.model.carries_state and phase.batch != rows:
                why = "the state goes from batch to batch, row by row"
                yield f"{at}batch = {phase.batch} is not {rows}: {why}"
            # The mask rate changes within the run: are there enough predictions?
            if isinstance(self.data, MaskedData) and (end or phase.mask_rate):
                rate = phase.mask_rate or max(self.data.mask_rate, end)
                if (most := round(rate * phase.length)) > phase.predictions:
                    this = f"{at}predictions = {phase.predictions} are too few to hide"
                    yield f"{this} {rate:g} of {phase.length} tokens: {most} are needed"
            for name in ("length", "predictions"):
                size = getattr(phase, name)
                if phase.batch * size > LARGEST_COUNT:
                    this = f"{at}batch × {at}{name} = {phase.batch * size}"
                    yield f"{this} is above {LARGEST_COUNT}"
            if phase.length > self.model.max_length:
                most = f"model.max_length = {self.model.max_length}"
                if getattr(self.model, "positions", "") == "rope":
                    most += f": pass --model.max_length {phase.length}"
                yield f"{at}length = {phase.length} exceeds {most}"
        if done != self.steps:
            this = f"the last phase ends at step {done}, steps = {self.steps}"
            yield f"{this}: pass --{at}until {self.steps}, too"

    @property
    def drops(self) -> bool:
        """Whether a step draws dropout."""
        return self.model.dropout > 0

    def causal_share(self, phase: Phase | None = None) -> float:
        """The share of rows, of a phase or the run, that predict each next token."""
        of_run = getattr(self.data, "causal_share", 0.0)
        return (phase.causal_share if phase else 0.0) or of_run

    @property
    def has_causal_rows(self) -> bool:
        """Whether rows predict each next token in some phase."""
        return any(map(self.causal_share, self.all_phases))

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint of a step is saved and kept for good."""
        if self.keep_every == "log":
            return step & (step - 1) == 0
        return bool(step and self.keep_every) and step % self.keep_every == 0

    def read(self, step: int) -> int:
        """Tokens of the batches before a step's end, padding too."""
        begun, tokens = 0, 0
        for phase in self.all_phases:
            steps = max(0, min(step, phase.until) - begun)
            tokens, begun = tokens + steps * phase.batch * phase.length, phase.until
        return tokens

    def batch_number(self, step: int) -> int:
        """The batch that a step reads: the one of its own number, but for `skip`.

            step      0  1  2  3  4  5         skip 2:4
            batch     0  1  4  5  6  7

        Each phase has batches of its own, numbered from its first step on.
        """
        if not self.skip:
            return step
        turns = [phase.until for phase in self.all_phases[:-1]]
        done = max((each for each in turns if each <= step), default=0)
        end = min((each for each in turns if each > step), default=math.inf)
        for low, high in sorted(range_of(each, "skip") for each in self.skip):
            low, high = max(low, done), int(min(high, end))
            if low <= step and low < high:
                step, done = step + high - low, high
        return step

    def idle_skip(self, skip: str) -> Iterator[str]:
        """What is wrong with a range of batches that the run never reaches."""
        first, last = range_of(skip, "skip")[0], self.batch_number(self.steps - 1)
        if first > last:
            yield f"skip = {skip} skips nothing: the last batch is {last}"

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """The phases; without phases, a single one made of the run's own fields."""
        rows = {each.name: getattr(self, each.name) for each in fields(Rows)}
        return self.phases or (Phase(until=self.steps, **rows),)


def range_of(text: str, flag: str) -> tuple[int, int]:
    """(first, end) of FIRST:END, the value of a flag."""
    first, _, end = text.partition(":")
    plain = first.isdecimal() and end.isdecimal() and len(end) < 20
    if not (plain and int(first) < int(end) <= LARGEST_COUNT):
        raise UserError(f"{flag} = {text} is not FIRST:END, such as 1200:1400")
    return int(first), int(end)
