"""How rows of a corpus become training examples; each family has its own fields."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxlm.types import UserError


@dataclass(frozen=True)
class DataConfig:
    """How rows are read, in any run."""

    of: ClassVar[str] = "all models"

    threads: int = 4
    """Threads that read rows ahead of the device."""


@dataclass(frozen=True)
class MaskedData(DataConfig):
    """How words are hidden and sentences paired, for BERT and ERNIE."""

    of: ClassVar[str] = "a BERT"

    mask_rate: float = 0.15
    """Share of a row's tokens to predict."""
    short_rate: float = 0.1
    """Share of sentence pairs built to a random shorter length."""
    whole_words: bool = False
    """Mask all pieces of a word together."""
    levels: tuple[float, ...] = ()
    """ERNIE: shares of rows in which tokens, phrases and entities are the units that
    are masked whole; empty: one kind of unit in all rows."""
    choice: Literal["budget", "each"] = "budget"
    """Units are masked in random order up to mask_rate of the row (BERT's), or each
    with that probability (ERNIE's)."""
    replace: Literal["token", "unit"] = "token"
    """What 80 % [MASK], 10 % another, 10 % the same are decided for; as published for
    both models, token by token."""
    second: Literal["any", "same"] = "any"
    """Language of the random second segment of a pair: any of the corpus, as Google's
    code draws from all of its documents, or the one of the first."""
    draws: int = 0
    """Mask and pair draws of a row before they repeat (Google's dupe_factor);
    0: fresh ones in every pass."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise UserError(f"data.mask_rate = {self.mask_rate} is not in (0, 1)")
        if not 0 <= self.short_rate <= 1:
            raise UserError(f"data.short_rate = {self.short_rate} is not in [0, 1]")
        check_levels("data.levels", self.levels)
        if self.draws < 0:
            raise UserError(f"data.draws = {self.draws} is negative")


@dataclass(frozen=True)
class StreamData(DataConfig):
    """How documents follow each other, for GPT."""

    of: ClassVar[str] = "a GPT"

    packed: bool = False
    """Attention stays inside a document, and positions start anew in each."""


@dataclass(frozen=True)
class BilmData(DataConfig):
    """How words are predicted in both directions, for ELMo."""

    of: ClassVar[str] = "an ELMo"

    negatives: int = 0
    """Sampled words that a target is told from in training, drawn anew at each step;
    0: all of the vocabulary."""
    carry: bool = True
    """Documents end to end in streams, the state going from batch to batch; false: each
    row a sentence by itself, a long one in several rows."""

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise UserError(f"data.negatives = {self.negatives} is negative")


AnyData = MaskedData | StreamData | BilmData | DataConfig


def check_levels(name: str, levels: tuple[float, ...]) -> None:
    """Refuse what are not shares of tokens, phrases and entities."""
    if levels and (len(levels) != 3 or min(levels) < 0 or abs(sum(levels) - 1) > 1e-6):
        raise UserError(
            f"{name} = {levels} are not three shares (tokens, phrases, entities) of 1"
        )
