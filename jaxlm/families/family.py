"""A model family as one record: everything in which families differ.

Only this folder and `convert/` depend on the family of a model.

    Frame:  begin    a text    between       another one    end
    BERT    [CLS]              [SEP]                        [SEP]
    GPT     –                  –                            –
    task    start              delimiter                    extract
    ELMo    –                  </S> <S>                     –
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.families.samples import MASKED, Sampler
from jaxlm.metrics import Figure
from jaxlm.models.encoder import Looks
from jaxlm.models.kernels.head import Head
from jaxlm.models.layers import position_ids
from jaxlm.objectives.objective import Objective
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError, note

Tokens = np.ndarray  # int32 [l], or an ELMo's uint16 [l, C]


@dataclass(frozen=True)
class Frame:
    """How texts, pairs of texts or words become rows. Next: `Family.encode`."""

    tokenizer: Tokenizer
    begin: Tokens
    between: Tokens
    end: Tokens
    pad: int
    halves: bool = False  # each of two texts has half of a row, however short the other

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text."""
        return [self.tokenizer.encode(text).ids for text in texts]

    def words(self, words: Sequence[str]) -> list[Tokens]:
        """The tokens of each word of a text that is already cut; at least one token."""
        special = self.tokenizer.special
        # A word of control characters alone has no tokens.
        unknown = np.array([special.unknown] if special else [], np.int32)
        return [ids if len(ids) else unknown for ids in self.texts(words)]

    def spelled(self, text: str, *, specials: bool = False) -> tuple[Tokens, list[str]]:
        """The tokens of a text, and each of them as a string; see `Tokenizer.encode`
        for `specials`."""
        ids = self.tokenizer.encode(text, specials=specials).ids
        return ids, [self.tokenizer.token(int(i)) for i in ids]

    def whole(self, text: str) -> Tokens:
        """The row of a text, as `Family.inputs` takes it; "[MASK]" is that token."""
        return self.row(self.spelled(text, specials=True)[0])

    def text(self, row: np.ndarray) -> str:
        """The text of a row; special tokens are spelled out."""
        row = given_array("ids", row, ("L",), self.tokenizer.vocab_size)
        return self.tokenizer.decode(row)

    def row(self, tokens: Tokens, second: Tokens | None = None) -> Tokens:
        """A row of one or two texts, with special tokens around them."""
        more = [] if second is None else [self.between, second]
        return np.concatenate([self.begin, tokens, *more, self.end])

    def padded(self, rows: Sequence[Tokens], length: int) -> tuple[Tokens, np.ndarray]:
        """(rows in one array [B, length, …], a mask [B, length] of their tokens)."""
        shape = len(rows), length
        tokens = np.full((*shape, *self.begin.shape[1:]), self.pad, self.begin.dtype)
        mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
        tokens[mask] = np.concatenate(rows)
        return tokens, mask


def given_array(name: str, given: Any, shape: Sequence[Any], size: int) -> np.ndarray:
    """A user's whole numbers in [0, size); a letter in `shape` is any number.

    One row may stand for a batch of one.
    """
    try:
        found = np.asarray(given)
    except (ValueError, TypeError):
        raise UserError(f"{name}: no array; pad all rows to one length") from None
    if found.dtype.kind not in "iu":
        text = "; of a text take model.encode(text)"
        text *= found.dtype.kind in "US"
        raise UserError(f"{name}: {found.dtype}, not whole numbers{text}")
    if found.size and found.ndim == len(shape) - 1 and shape[0] in ("B", 1):
        found = found[None]
    fits = [
        isinstance(a, str) or a == b for a, b in zip(shape, found.shape, strict=False)
    ]
    if found.ndim != len(shape) or not all(fits) or not found.size:
        wanted = ", ".join(map(str, shape))
        raise UserError(f"{name}: shape {list(found.shape)}, not [{wanted}]")
    low, high = found.min(), found.max()
    if low < 0 or high >= size:
        raise UserError(f"{name}: ids run from {low} to {high}, not in [0, {size})")
    return found


def given_mask(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A user's mask, bool [B, L]: True where a token is not padding."""
    found = np.asarray(given)
    found = found.astype(np.int8) if found.dtype == bool else found
    found = given_array("mask", found, shape, 2).astype(bool)
    if not found.any():
        raise UserError("mask: all are padding; True, or 1, is a token")
    return found


class Family(abc.ABC):
    """The interface of a family; `FAMILIES` has an instance of each subclass.

    Methods take the family's own config or module. The defaults suit a model that reads
    rows of token ids; a subclass overrides what differs.
    """

    name: ClassVar[str]  # as in the config's field `family`
    article: ClassVar[str]  # "a BERT"
    purpose: ClassVar[str]  # what `jaxlm` verb fits: "fill fills its blanks"
    config: ClassVar[Any]  # the class
    # (config, dtype=, remat=, road=) → the module that is pretrained, with `example()`,
    # and the one that `encode` reads, whose parameters lie among those of the first
    # under the same names.
    build: ClassVar[Callable[..., Any]]
    encoder: ClassVar[Callable[..., Any]]
    # (run, module, manifest, phase, stream) → what is learnt in pretraining.
    objective: ClassVar[Callable[..., Objective]]
    figures: ClassVar[Callable[..., tuple[Figure, ...]]]  # (run) → what it declares
    # (config, length, predictions) → FLOP of one row through all layers, and of its
    # predictions through the head.
    forward_flops: ClassVar[Callable[..., int]]
    # (family, config, tokenizer, prompts) → what the model says to prompts.
    sampler: ClassVar[Callable[..., Sampler]]
    prompts: tuple[str, ...] = MASKED  # of the samples of a run
    task_tokens: tuple[str, ...] = ()  # that a task adds behind the vocabulary
    token_types = False  # rows have a sentence A and a sentence B
    bidirectional = True  # a token sees what comes after it
    has_cls = False  # rows begin with a token that stands for the whole row
    fills = False  # predicts [MASK]
    packs = False  # several examples may share a row
    scorings: tuple[str, ...] = ()  # how it scores texts, see `scoring.py`
    attends = True  # has attention, whose probabilities can be looked at

    @property
    def stateful(self) -> bool:
        """Whether the model carries state from row to row."""
        return self.config.carries_state

    @abc.abstractmethod
    def frame(self, config: Any, tokenizer: Tokenizer, task: bool = False) -> Frame:
        """The frame of pretraining rows, or with `task` of fine-tuning rows; UserError
        if the vocabulary lacks a token that they need."""

    def encode(
        self,
        module: Any,
        tokens_BL: Any,
        token_types_BL: Any,
        mask_BL: Any,
        *,
        segments: Any = None,
        carry: Any = (),
        deterministic: bool = True,
        looks: Looks | None = None,
    ) -> tuple[Any, Any]:
        """(Encoded, carry): hidden states [N+1, B, L, D] of rows made by `frame`.

        Call this with a bound `module`. `segments` number the texts of packed rows, in
        a family that `packs`; `looks` is for one that `attends`.
        """
        facts: dict[str, Any] = {"lengths": mask_BL.sum(1)}
        if segments is not None:
            facts = {"segments": segments, "position_ids": position_ids(segments)}
        inputs = (tokens_BL, token_types_BL) if self.token_types else (tokens_BL,)
        facts |= {"logits": False, "deterministic": deterministic, "looks": looks}
        return module(*inputs, **facts), carry

    @abc.abstractmethod
    def predict(
        self, module: Any, tokens_BL: Any, lengths_B: Any, places_BP: Any
    ) -> Head:
        """The factors of the logits of the tokens at `places`, of rows made by `frame`.

        Call this with a bound `module`. A GPT's `places` may be one past the row's end.
        An ELMo's `x` is [2, B, P, D], with those of the two directions.
        """

    def example(self, config: Any) -> tuple[Any, ...]:
        """(tokens, token types, mask) of a row to initialise with."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        return tokens, tokens, jnp.ones((1, 2), bool)

    def inputs(
        self, config: Any, tokens: Any, token_types: Any, mask: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the module for a user's arrays."""
        typed = self.token_types and config.num_token_types > 0
        if token_types is not None and not typed:
            whose = "this model" if self.token_types else self.article
            raise UserError(f"{whose} has no token types")
        tokens = given_array("tokens", tokens, ("B", "L"), config.vocab_size)
        length = tokens.shape[1]
        if (most := config.max_length) < length and config.positions == "rope":
            note(f"longer than the rows of {most} tokens that the model was trained on")
        elif most < length:
            raise UserError(
                f"{length} tokens, the model has {most} positions: shorten the text"
            )
        ids = [tokens]
        if self.token_types and token_types is None:
            ids += [np.zeros_like(tokens)]
        elif self.token_types:
            types = config.num_token_types
            ids += [given_array("token_types", token_types, tokens.shape, types)]
        facts = {}
        if mask is not None:  # padding sees padding
            given = given_mask(mask, tokens.shape)
            facts["segments"] = jnp.asarray(given, jnp.int32)
        return tuple(jnp.asarray(each, jnp.int32) for each in ids), facts

    def train_flops(self, run: Any, phase: Any) -> int:
        """FLOP of one update; the backward pass costs as much as two forward passes."""
        row = self.forward_flops(run.model, phase.length, phase.predictions)
        return 3 * phase.batch * row

    def window(self, config: Any) -> int:
        """Most tokens of a long text that are read at once."""
        return config.max_length

    def width(self, config: Any) -> int:
        """The width of a token's hidden state."""
        return config.d_model

    def for_task(self, config: Any, *, vocab_size: int, pooler: bool) -> Any:
        """The config of a task's encoder, with the task's own tokens, and with a pooler
        only if the task needs it; UserError if the model lacks a needed pooler."""
        return config

    def missing_head(self, config: Any, params: Any) -> str:
        """The head that is missing to predict words, with the remedy; "" if none is."""
        return ""

    def zero_carry(self, config: Any, rows: int) -> Any:
        """The state carried from batch to batch, as it is before the first batch."""
        return ()
