"""Settings of the model families: the shape of each, and how it reads its rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from jaxlm.config.checks import Checked


@dataclass(frozen=True)
class DataConfig(Checked, at="data."):
    """How any run reads its rows."""

    of: ClassVar[str] = "all models"

    threads: int = 4
    """Threads that read rows ahead of the device."""
    cache: str = ""
    """Local directory to which a corpus on gs:// is copied, once a host; empty:
    jaxlm/corpora in the user's cache directory."""


@dataclass(frozen=True)
class MaskedData(DataConfig):
    """How words are hidden and sentences paired, for BERT and ERNIE."""

    of: ClassVar[str] = "a BERT"

    mask_rate: Annotated[float, "(0, 1)"] = 0.15
    """Share of a row's tokens to predict."""
    mask_rate_end: Annotated[float, "[0, 1)"] = 0.0
    """Share at the last step, reached from mask_rate in a line; evaluations always have
    this share. 0: mask_rate all along."""
    short_rate: Annotated[float, "[0, 1]"] = 0.1
    """Share of sentence pairs built to a random shorter length."""
    whole_words: bool = False
    """Mask all pieces of a word together."""
    levels: tuple[float, ...] = ()
    """ERNIE: shares of rows whose tokens, phrases or entities are masked whole."""
    choice: Literal["budget", "each"] = "budget"
    """budget: mask units up to mask_rate of a row (BERT); each: each with mask_rate."""
    second: Literal["any", "same"] = "any"
    """Language of a pair's random second segment: any (Google's code), or the same."""
    causal_share: Annotated[float, "[0, 1)"] = 0.0
    """Share of the rows that predict each next token, under a causal mask, and of their
    loss in the whole (GPT-BERT: .0625). For --model.nsp false."""
    draws: Annotated[int, "[0, inf)"] = 0
    """Number of masks and pairs of a row (Google's dupe_factor); 0: new every pass."""
    packed: bool = False
    """Fill each row with texts, without padding; a text has its own [CLS] and [SEP],
    positions from 0, and sees itself alone. For --model.nsp false."""

    def _mistakes(self) -> Iterator[str]:
        return wrong_levels("data.levels", self.levels)


@dataclass(frozen=True)
class StreamData(DataConfig):
    """How documents follow each other, for GPT."""

    of: ClassVar[str] = "a GPT"

    packed: bool = False
    """Attention stays inside a document, and each document has positions from 0."""


@dataclass(frozen=True)
class BilmData(DataConfig):
    """How words are predicted in both directions, for ELMo."""

    of: ClassVar[str] = "an ELMo"

    negatives: Annotated[int, "[0, inf)"] = 0
    """Words sampled at each step for the softmax; 0: all of the vocabulary."""
    carry: bool = True
    """Read documents end to end and carry the state from batch to batch; false: a row
    is a single sentence, or a part of a long sentence."""


AnyData = MaskedData | StreamData | BilmData | DataConfig


def wrong_levels(name: str, levels: tuple[float, ...]) -> Iterator[str]:
    """The mistake in levels that are not three shares of 1."""
    if levels and (len(levels) != 3 or min(levels) < 0 or abs(sum(levels) - 1) > 1e-6):
        shares = "three shares (tokens, phrases, entities) of 1"
        yield f"{name} = {levels} are not {shares}"


# No model has other sizes; a damaged file may ask for them.
Words = Annotated[int, "[1, 2147483648)"]
Size = Annotated[int, "[1, 16777216]"]
Depth = Annotated[int, "[1, 10000]"]
Dropout = Annotated[float, "[0, 1)"]
Positive = Annotated[float, "[0, inf)"]
Base = Annotated[float, "[1, inf)"]


@dataclass(frozen=True)
class _Transformer(Checked, at="model."):
    """The fields that BERT and GPT share."""

    carries_state: ClassVar[bool] = False  # from batch to batch

    vocab_size: Words
    """Entries of the vocabulary, as many as the tokenizer has."""
    max_length: Size
    """Rows of the position table, in tokens: the longest context."""
    num_layers: Depth = 12
    """Transformer blocks."""
    num_heads: Size = 12
    """Attention heads of a block."""
    d_model: Size = 768
    """Width of the hidden states."""
    d_ff: Size = 3072
    """Width inside the MLP of a block."""
    dropout: Dropout = 0.1
    """Share of hidden units and of attention probabilities dropped in training."""
    init_std: Positive = 0.02
    """Scale of the normal that kernels and tables start from; BERT's is truncated."""

    def _mistakes(self) -> Iterator[str]:
        if self.d_model % self.num_heads:
            heads = f"model.num_heads = {self.num_heads}"
            yield f"model.d_model = {self.d_model} is not a multiple of {heads}"

    def _encoder(self, *, gated: bool, biases: bool, final_norm: bool) -> int:
        """Parameters of the tables of words and positions, and of all blocks."""
        d, f, one = self.d_model, self.d_ff, int(biases)
        attention, norm = 4 * (d * d + one * d), (1 + one) * d
        mlp = (2 + gated) * d * f + one * ((1 + gated) * f + d)
        tables = (self.vocab_size + self.max_length) * d
        return (
            tables + self.num_layers * (attention + mlp + 2 * norm) + final_norm * norm
        )


@dataclass(frozen=True)
class BertConfig(_Transformer):
    """BERT (Devlin et al. 2018); the defaults are BERT-base, uncased."""

    data: ClassVar[type[DataConfig]] = MaskedData
    first_norm: ClassVar[bool] = False  # with norm = "pre", before the first attention

    family: Literal["bert"] = "bert"
    """Which dataclass this is, in JSON."""
    vocab_size: Words = 30_522
    max_length: Size = 512
    num_token_types: Annotated[int, "[0, 65536]"] = 2
    """Rows of the sentence A/B table; 0: no table."""
    positions: Literal["learned", "rope"] = "learned"
    """learned: a table; rope: queries and keys are rotated (RoFormer, ModernBERT)."""
    norm: Literal["post", "pre"] = "post"
    """post: norm after attention and MLP (BERT); pre: before each, but not before the
    first attention, and at the end (ModernBERT)."""
    gated: bool = False
    """The MLP multiplies its activations by a second product (GeGLU; ModernBERT)."""
    biases: bool = True
    """Biases of products and norms; ModernBERT has none but that of the MLM logits."""
    window: Annotated[int, "[0, 2147483648)"] = 0
    """Tokens that a local layer sees around each token, half of them on each side; 0:
    all layers are global."""
    global_every: Depth = 3
    """With a window, every so many layers one is global, from the first on."""
    rope_base: Base = 10_000.0
    """Base of the wavelengths of rope, in global layers."""
    local_rope_base: Base = 10_000.0
    """Base of the wavelengths of rope, in local layers."""
    activation: Literal["gelu_erf", "gelu_tanh", "relu"] = "gelu_erf"
    """Activation of the MLP and the MLM head. Google's 2018 checkpoints use erf, its
    code since 2019-02 tanh."""
    norm_eps: Positive = 1e-12
    """Added to the variance in LayerNorm."""
    nsp: bool = True
    """Train next-sentence prediction beside MLM: pairs in the rows, a pooler and a
    second head in the model."""

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        width = self.d_model // self.num_heads
        if self.positions == "rope" and width % 2:
            rope = "model.positions = rope turns pairs of channels"
            yield f"{rope}: heads of {width} have an odd number of them"
        if self.window % 2:
            both = "half of it lies on each side of a token"
            yield f"model.window = {self.window} is odd: {both}"

    @property
    def num_parameters(self) -> int:
        """Parameters with the heads, without rows that pad the vocabulary."""
        d, one = self.d_model, int(self.biases)
        how: Any = {"gated": self.gated, "biases": self.biases}
        count = self._encoder(**how, final_norm=self.norm == "pre")
        count -= self.max_length * d * (self.positions == "rope")
        count += self.num_token_types * d + (1 + one) * d  # and the norm behind them
        count += d * d + one * d + (1 + one) * d + self.vocab_size  # the MLM head
        return count + (d * d + 3 * d + 2) * self.nsp  # the pooler and two classes

    @property
    def local(self) -> tuple[bool, ...]:
        """Whether each layer attends through the window; empty without a window."""
        layers = range(self.num_layers if self.window else 0)
        return tuple(n % self.global_every > 0 for n in layers)

    @property
    def layout(self) -> Literal["bert", "roformer", "modernbert"] | None:
        """The architecture under which other programs load the model, if one has it."""
        rope, types = self.positions == "rope", self.num_token_types > 0
        choices = rope, self.norm, self.gated, self.biases, types
        if choices == (True, "pre", True, False, False):
            return "modernbert"
        if choices[1:] != ("post", False, True, True) or self.window:
            return None
        if not rope:
            return "bert"
        return "roformer" if self.rope_base == 10_000 else None


@dataclass(frozen=True)
class GptConfig(_Transformer):
    """GPT-1 and GPT-2 (Radford et al. 2018, 2019); the defaults are GPT-2 124M."""

    data: ClassVar[type[DataConfig]] = StreamData
    # Choices of a BertConfig.
    positions: ClassVar[str] = "learned"
    first_norm: ClassVar[bool] = True
    gated: ClassVar[bool] = False
    biases: ClassVar[bool] = True
    window: ClassVar[int] = 0
    local: ClassVar[tuple[bool, ...]] = ()

    family: Literal["gpt"] = "gpt"
    """Which dataclass this is, in JSON."""
    vocab_size: Words = 50_257
    max_length: Size = 1024
    norm: Literal["pre", "post"] = "pre"
    """pre: norm before attention, MLP and head (GPT-2); post: after each (GPT-1)."""
    one_matrix: bool = False
    """GPT-1's original: token and position tables are one matrix, with dropout on the
    matrix instead of the embeddings, and the softmax includes position rows."""
    activation: Literal["gelu_erf", "gelu_tanh", "relu"] = "gelu_tanh"
    """Activation of the MLP; all GPTs use tanh."""
    norm_eps: Positive = 1e-5
    """Added to the variance in LayerNorm."""
    position_std: float = 0.01
    """Scale of the normal that the position table starts from."""
    scale_residual: bool = True
    """Scale the initial projections into the residual stream by 1 / sqrt(2 num_layers),
    as in GPT-2's paper."""

    @property
    def num_parameters(self) -> int:
        """Parameters without rows that pad the vocabulary; the head has none."""
        return self._encoder(gated=False, biases=True, final_norm=self.norm == "pre")


@dataclass(frozen=True)
class ElmoConfig(Checked, at="model."):
    """ELMo's bidirectional language model (Peters et al. 2018); the defaults are the
    original, 93.6M parameters and a softmax over 793,471 words."""

    data: ClassVar[type[DataConfig]] = BilmData
    carries_state: ClassVar[bool] = True  # from batch to batch

    family: Literal["elmo"] = "elmo"
    """Which dataclass this is, in JSON."""
    vocab_size: Annotated[int, "[0, 2147483648)"] = 793_471
    """Words of the softmax; 0: no softmax, as in the released files, for features."""
    num_layers: Depth = 2
    """LSTM layers of each direction."""
    d_model: Size = 512
    """Width of a layer's output in one direction; hidden states are twice as wide."""
    d_ff: Size = 4096
    """Cells of a layer in one direction, projected down to `d_model`."""
    max_characters: Annotated[int, "[0, 65536]"] = 50
    """Most characters of a word that are read: UTF-8 bytes and two marks."""
    d_character: Size = 16
    """Width of a character's vector."""
    filters: tuple[int, ...] = (32, 32, 64, 128, 256, 512, 1024)
    """Convolution filters over 1, 2, 3 … characters."""
    num_highways: Annotated[int, "[0, 100]"] = 2
    """Highway layers on the pooled filters."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the pooled filters."""
    skip: bool = True
    """Add the input of each layer but the first to its output."""
    cell_clip: Positive = 3.0
    """Bound of a cell's value; 0: none."""
    proj_clip: Positive = 3.0
    """Bound of a layer's projected output; 0: none."""
    dropout: Dropout = 0.1
    """Dropout of the input of each layer and of the softmax, in training."""

    def _mistakes(self) -> Iterator[str]:
        widest = len(self.filters)
        if not all(0 <= n <= 2**24 for n in self.filters) or not any(self.filters):
            yield f"model.filters = {self.filters} are not numbers of filters"
        if self.max_characters < max(3, widest):
            this = f"model.max_characters = {self.max_characters}"
            yield f"{this} must be at least 3 and the widest filter {widest}"

    @property
    def num_parameters(self) -> int:
        """Parameters with the softmax, without rows that pad its vocabulary."""
        d, f, c, pooled = self.d_model, self.d_ff, self.d_character, sum(self.filters)
        count = 261 * c  # bytes and marks
        count += sum(n * (width * c + 1) for width, n in enumerate(self.filters, 1))
        count += 2 * self.num_highways * (pooled + 1) * pooled + (pooled + 1) * d
        count += 2 * self.num_layers * ((2 * d + 1) * 4 * f + f * d)
        return count + self.vocab_size * (d + 1)

    @property
    def max_length(self) -> int:
        """The longest row: unlimited, as an LSTM has no table of positions."""
        return 2**31 - 1


ModelConfig = BertConfig | GptConfig | ElmoConfig

# num_layers, d_model, num_heads of the published sizes (google-research/bert README).
BERT_SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
# Of the released sizes (openai/gpt-2; its paper's counts of parameters, 117M to 1542M,
# were wrong) and of a laptop's.
GPT2_SIZES = {
    "tiny": (4, 128, 4),
    "mini": (4, 256, 4),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "xl": (48, 1600, 25),
}
_GPT1 = GptConfig(
    vocab_size=40_478,
    max_length=512,
    norm="post",
    one_matrix=True,
    position_std=0.02,
    scale_residual=False,
)
# The original, its released small sister (13.6M parameters) and a laptop's.
ELMO_SIZES = {
    "original": ElmoConfig(),
    "small": ElmoConfig(d_model=128, d_ff=1024, num_highways=1),
    "tiny": ElmoConfig(
        d_model=128, d_ff=512, filters=(16, 16, 32, 64, 128), num_highways=1
    ),
}


def _shape(num_layers: int, d_model: int, num_heads: int) -> dict[str, Any]:
    """The fields of a size; the MLP is always four times as wide as the model."""
    shape = {"num_layers": num_layers, "num_heads": num_heads}
    return {**shape, "d_model": d_model, "d_ff": 4 * d_model}


def bert(size: str, **changes: Any) -> BertConfig:
    """BERT in a published size, `tiny` … `large`, with `changes` to its fields."""
    return BertConfig(**_shape(*BERT_SIZES[size]) | changes)


def modernbert(size: str, **changes: Any) -> BertConfig:
    """ModernBERT's layout (Warner et al. 2024) in a size of BERT, all layers global,
    with `changes` to its fields."""
    layout: dict[str, Any] = {"positions": "rope", "norm": "pre", "norm_eps": 1e-5}
    layout |= {"gated": True, "biases": False, "num_token_types": 0, "nsp": False}
    return bert(size, **layout | {"dropout": 0.0} | changes)


def gpt1(**changes: Any) -> GptConfig:
    """GPT-1 as published, 117M parameters, with `changes` to its fields."""
    return replace(_GPT1, **changes)


def gpt2(size: str, **changes: Any) -> GptConfig:
    """GPT-2 in a size `tiny` … `xl`, with `changes` to its fields."""
    return GptConfig(**_shape(*GPT2_SIZES[size]) | changes)


def elmo(size: str, **changes: Any) -> ElmoConfig:
    """ELMo in the size `original`, `small` or `tiny`, with `changes` to its fields."""
    return replace(ELMO_SIZES[size], **changes)
