"""The shapes and quirks of each model family."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxlm.config.data import BilmData, DataConfig, MaskedData, StreamData
from jaxlm.types import UserError


@dataclass(frozen=True)
class BertConfig:
    """BERT (Devlin et al. 2018); the defaults are BERT-base, uncased."""

    data: ClassVar[type[DataConfig]] = MaskedData
    carries_state: ClassVar[bool] = False  # from batch to batch

    family: Literal["bert"] = "bert"
    """Which dataclass this is, in JSON."""
    vocab_size: int = 30_522
    """Entries of the vocabulary; equals the tokenizer's."""
    num_layers: int = 12
    """Transformer blocks."""
    num_heads: int = 12
    """Attention heads of a block."""
    d_model: int = 768
    """Width of the hidden states."""
    d_ff: int = 3072
    """Width inside the MLP of a block."""
    max_length: int = 512
    """Rows of the position table, in tokens."""
    num_token_types: int = 2
    """Rows of the sentence A/B table."""
    dropout: float = 0.1
    """Share of hidden units and of attention probabilities dropped in training."""
    activation: Literal["gelu_erf", "gelu_tanh", "relu"] = "gelu_erf"
    """Of the MLP and of the MLM head. Google's first release and the 2018 checkpoints
    use erf, its code since 2019-02 tanh."""
    norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    init_std: float = 0.02
    """Scale of the truncated normal that kernels and tables start from."""
    nsp: bool = True
    """Train next-sentence prediction beside MLM: pairs in the rows, a pooler and a
    second head in the model."""

    def __post_init__(self) -> None:
        _check_shape(self)


@dataclass(frozen=True)
class GptConfig:
    """GPT-1 and GPT-2 (Radford et al. 2018, 2019); the defaults are GPT-2 124M."""

    data: ClassVar[type[DataConfig]] = StreamData
    carries_state: ClassVar[bool] = False  # from batch to batch

    family: Literal["gpt"] = "gpt"
    """Which dataclass this is, in JSON."""
    vocab_size: int = 50_257
    """Entries of the vocabulary; equals the tokenizer's."""
    num_layers: int = 12
    """Transformer blocks."""
    num_heads: int = 12
    """Attention heads of a block."""
    d_model: int = 768
    """Width of the hidden states."""
    d_ff: int = 3072
    """Width inside the MLP of a block."""
    max_length: int = 1024
    """Rows of the position table, in tokens: the longest context."""
    norm: Literal["pre", "post"] = "pre"
    """Norms before attention and MLP and one at the end (GPT-2), or after (GPT-1)."""
    one_matrix: bool = False
    """GPT-1's original: token and position tables are one matrix, dropout falls on it
    and not on its sums, and the softmax ranges over its position rows too."""
    dropout: float = 0.1
    """Share of hidden units and of attention probabilities dropped in training."""
    activation: Literal["gelu_erf", "gelu_tanh", "relu"] = "gelu_tanh"
    """Of the MLP; all GPTs use tanh."""
    norm_eps: float = 1e-5
    """Added to the variance in LayerNorm."""
    init_std: float = 0.02
    """Scale of the normal that kernels and the token table start from."""
    position_std: float = 0.01
    """Scale of the normal that the position table starts from."""
    scale_residual: bool = True
    """Start the projections into the residual stream 1 / sqrt(2 num_layers) as large
    (GPT-2's paper)."""

    def __post_init__(self) -> None:
        _check_shape(self)


@dataclass(frozen=True)
class ElmoConfig:
    """ELMo's bidirectional language model (Peters et al. 2018); the defaults are the
    original, 93.6M parameters and a softmax over 793,471 words."""

    data: ClassVar[type[DataConfig]] = BilmData
    carries_state: ClassVar[bool] = True  # from batch to batch

    family: Literal["elmo"] = "elmo"
    """Which dataclass this is, in JSON."""
    vocab_size: int = 793_471
    """Words that the softmax tells apart, commonest first; 0: no softmax, as in the
    released files, which serve for features only."""
    num_layers: int = 2
    """LSTM layers of each direction."""
    d_model: int = 512
    """Width of a layer's output in one direction; hidden states are twice as wide."""
    d_ff: int = 4096
    """Cells of a layer in one direction, projected down to `d_model`."""
    max_characters: int = 50
    """Slots of a word: its UTF-8 bytes between a begin and an end mark; the rest of a
    longer word is not read."""
    d_character: int = 16
    """Width of a character's vector."""
    filters: tuple[int, ...] = (32, 32, 64, 128, 256, 512, 1024)
    """Convolution filters over 1, 2, 3 … characters."""
    num_highways: int = 2
    """Highway layers on the pooled filters."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of the pooled filters."""
    skip: bool = True
    """Add the input of each layer but the first to its output."""
    cell_clip: float = 3.0
    """Bound of a cell's value; 0: none."""
    proj_clip: float = 3.0
    """Bound of a layer's projected output; 0: none."""
    dropout: float = 0.1
    """Share dropped of the input of each layer and of the softmax's, in training."""

    def __post_init__(self) -> None:
        _check_positive(self, "num_layers", "d_model", "d_ff", "d_character")
        for name in ("vocab_size", "num_highways", "cell_clip", "proj_clip"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name} = {getattr(self, name)} is negative")
        widest = len(self.filters)
        if min(self.filters, default=-1) < 0 or not any(self.filters):
            raise UserError(f"model.filters = {self.filters} are no numbers of filters")
        if self.max_characters < max(3, widest):
            raise UserError(
                f"model.max_characters = {self.max_characters} must be at least 3 and "
                f"the widest filter, {widest}"
            )

    @property
    def max_length(self) -> int:
        """No limit: a recurrence has no table of positions."""
        return 2**31 - 1


ModelConfig = BertConfig | GptConfig | ElmoConfig


def _check_shape(config: BertConfig | GptConfig) -> None:
    if config.d_model % config.num_heads:
        raise UserError(
            f"model.d_model = {config.d_model} is not a multiple of "
            f"model.num_heads = {config.num_heads}"
        )
    _check_positive(config, "vocab_size", "num_layers", "d_model", "d_ff", "max_length")


def _check_positive(config: ModelConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"model.{name} = {getattr(config, name)} must be positive")
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout = {config.dropout} is not in [0, 1)")


# num_layers, d_model of the published sizes (google-research/bert README); heads are
# d_model / 64 and the MLP is four times as wide in all of them.
BERT_SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def bert(size: str, **changes: Any) -> BertConfig:
    """The published size `tiny` … `large`, with `changes` to its fields."""
    num_layers, d_model = BERT_SIZES[size]
    shape: dict[str, Any] = {
        "num_layers": num_layers,
        "num_heads": d_model // 64,
        "d_model": d_model,
        "d_ff": 4 * d_model,
    }
    return BertConfig(**{**shape, **changes})


# num_layers, d_model, heads of the released sizes (openai/gpt-2; its paper's counts of
# parameters, 117M to 1542M, were wrong) and of a laptop's.
GPT2_SIZES = {
    "tiny": (4, 128, 4),
    "mini": (4, 256, 4),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "xl": (48, 1600, 25),
}


def gpt1(**changes: Any) -> GptConfig:
    """GPT-1 as published, 117M parameters, with `changes` to its fields."""
    shape: dict[str, Any] = {
        "vocab_size": 40_478,
        "max_length": 512,
        "norm": "post",
        "one_matrix": True,
        "position_std": 0.02,
        "scale_residual": False,
    }
    return GptConfig(**{**shape, **changes})


def gpt2(size: str, **changes: Any) -> GptConfig:
    """The size `tiny` … `xl` of GPT-2, with `changes` to its fields."""
    num_layers, d_model, num_heads = GPT2_SIZES[size]
    shape: dict[str, Any] = {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "d_model": d_model,
        "d_ff": 4 * d_model,
    }
    return GptConfig(**{**shape, **changes})


# What differs from the original in its released small sister (13.6M parameters) and in
# a laptop's.
ELMO_SIZES: dict[str, dict[str, Any]] = {
    "original": {},
    "small": {"d_model": 128, "d_ff": 1024, "num_highways": 1},
    "tiny": {
        "d_model": 128,
        "d_ff": 512,
        "filters": (16, 16, 32, 64, 128),
        "num_highways": 1,
    },
}


def elmo(size: str, **changes: Any) -> ElmoConfig:
    """The size `original`, `small` or `tiny`, with `changes` to its fields."""
    return ElmoConfig(**{**ELMO_SIZES[size], **changes})
