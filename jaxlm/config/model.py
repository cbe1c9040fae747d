"""The shapes and quirks of each model family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxlm.types import UserError


@dataclass(frozen=True)
class BertConfig:
    """BERT (Devlin et al. 2018); the defaults are BERT-base, uncased."""

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
        if self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model = {self.d_model} is not a multiple of "
                f"model.num_heads = {self.num_heads}"
            )
        for name in ("vocab_size", "num_layers", "d_model", "d_ff", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"model.{name} = {getattr(self, name)} must be positive"
                )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout = {self.dropout} is not in [0, 1)")


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
