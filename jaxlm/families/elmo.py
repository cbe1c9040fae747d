"""ELMo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from jaxlm.config import ElmoConfig
from jaxlm.families.family import Family, Frame, Tokens, given_array, given_mask
from jaxlm.families.samples import words_between
from jaxlm.models.elmo import Elmo, zero_state
from jaxlm.models.encoder import Encoded, Looks
from jaxlm.models.flops import elmo_forward_flops
from jaxlm.models.kernels.head import Head
from jaxlm.models.kernels.lstm import flip_backward
from jaxlm.models.layers import gather
from jaxlm.objectives.bidirectional import bidirectional_figures, bidirectional_lm
from jaxlm.text.characters import (
    BEGIN,
    END,
    NO_WORD,
    NUM_CHARACTERS,
    check_characters,
    spelled_words,
    word_characters,
)
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.words import WordVocab
from jaxlm.types import UserError

WINDOW = 1024  # words; a recurrence has no context of its own


@dataclass(frozen=True)
class WordFrame(Frame):
    """The `Frame` of an ELMo, where each word is a row of characters."""

    slots: int = 50

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """The words of each text, as characters; an empty text has one empty word."""
        return [self.spelled(text)[0] for text in texts]

    def words(self, words: Sequence[str]) -> list[Tokens]:
        """Each word as characters, lower-cased if the tokenizer does that."""
        cut = ["".join(self._cut(word)) or word for word in words]
        return list(word_characters(cut, slots=self.slots)[:, None])

    def spelled(self, text: str, *, specials: bool = False) -> tuple[Tokens, list[str]]:
        """(the words of a text as characters, the words as strings); an empty text has
        one empty word as characters."""
        words = self._cut(text)
        return word_characters(words or [""], slots=self.slots), words

    def whole(self, text: str) -> Tokens:
        """The words of a text between `<S>` and `</S>`, as characters."""
        words = [BEGIN, *self._cut(text), END]
        return word_characters(words, slots=self.slots)

    def text(self, row: np.ndarray) -> str:
        """The words that are spelled, separated by spaces."""
        shape = ("L", self.slots)
        return " ".join(spelled_words(given_array("ids", row, shape, NUM_CHARACTERS)))

    def _cut(self, text: str) -> list[str]:
        assert isinstance(self.tokenizer, WordVocab)
        return self.tokenizer.cut(text)


def framed_flops(config: ElmoConfig, length: int, predictions: int) -> int:
    """FLOP of one row of `length` words with `<S>` and `</S>`."""
    classes = config.vocab_size if predictions else 0
    return elmo_forward_flops(config, length=length + 2, classes=classes)


def with_words(tokenizer: Tokenizer, words: str) -> Tokenizer:
    """The vocabulary, cutting words by the rule `words`; "" keeps its own rule."""
    if not words:
        return tokenizer
    if not isinstance(tokenizer, WordVocab):
        raise UserError(
            f"words = {words} is for an ELMo's vocabulary of words, this one is "
            f"{tokenizer.kind}"
        )
    return WordVocab(tokenizer.tokens, lowercase=tokenizer.lowercase, words=words)


class ElmoFamily(Family):
    """ELMo: reads words as characters, and predicts words in both directions."""

    name = "elmo"
    article = "an ELMo"
    purpose = "embed gives its vectors"
    config = ElmoConfig
    build = encoder = Elmo
    objective = staticmethod(bidirectional_lm)
    figures = staticmethod(bidirectional_figures)
    forward_flops = staticmethod(framed_flops)
    scorings = ("both", "forward", "backward")
    attends = False
    sampler = words_between

    def frame(self, config: Any, tokenizer: Tokenizer, task: bool = False) -> Frame:
        """See `Family`; `encode` adds the first `<S>` and the last `</S>`."""
        if not isinstance(tokenizer, WordVocab):
            raise UserError(f"an ELMo reads words, its vocabulary is {tokenizer.kind}")
        slots = config.max_characters
        none, between = (word_characters(w, slots=slots) for w in ([], [END, BEGIN]))
        return WordFrame(tokenizer, none, between, none, NO_WORD, slots=slots)

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
        """See `Family`. `<S>` and `</S>` are read, but their states are not returned,
        as in AllenNLP's `Elmo`; it does not attend."""
        characters_BLC, lengths_B = with_boundaries(tokens_BL, mask_BL.sum(1))
        facts = {"lengths": lengths_B, "deterministic": deterministic}
        out = module(characters_BLC, carry or None, logits=False, **facts)
        return Encoded(hidden=out.hidden[:, :, 1:-1]), out.carry

    def predict(
        self, module: Any, tokens_BL: Any, lengths_B: Any, places_BP: Any
    ) -> Head:
        """See `Family`."""
        characters_BLC, lengths_B = with_boundaries(tokens_BL, lengths_B)
        read = module.read(characters_BLC, lengths=lengths_B)
        ahead, back = flip_backward(read.last, lengths_B)
        # `<S>` is before all places: word 0 comes after row 0, and before row 2.
        x_2BPD = jnp.stack([gather(ahead, places_BP), gather(back, places_BP + 2)])
        return Head(x_2BPD, *read.head)

    def example(self, config: Any) -> tuple[Any, ...]:
        """See `Family`."""
        characters = jnp.zeros((1, 2, config.max_characters), jnp.uint16)
        return (characters, *super().example(config)[1:])

    def inputs(
        self, config: Any, tokens: Any, token_types: Any, mask: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `Family`; the tokens are characters, with those of `<S>` and `</S>`."""
        if token_types is not None:
            raise UserError("an ELMo has no token types")
        shape = ("B", "L", config.max_characters)
        tokens = given_array("tokens", tokens, shape, NUM_CHARACTERS)
        check_characters(tokens)
        lengths = None
        if mask is not None:
            given = given_mask(mask, tokens.shape[:2])
            lengths = jnp.asarray(given.sum(1))
            if (np.diff(given.astype(int)) > 0).any():
                raise UserError("mask has padding before a word: an ELMo's comes last")
        return (jnp.asarray(tokens, jnp.int32),), {"lengths": lengths}

    def train_flops(self, run: Any, phase: Any) -> int:
        """See `Family`."""
        classes = run.data.negatives or run.model.vocab_size
        row = elmo_forward_flops(run.model, length=phase.length, classes=classes)
        return 3 * phase.batch * row

    def window(self, config: Any) -> int:
        """See `Family`."""
        return WINDOW

    def width(self, config: Any) -> int:
        """See `Family`; the sum of both directions."""
        return 2 * config.d_model

    def missing_head(self, config: Any, params: Any) -> str:
        """See `Family`."""
        return "" if config.vocab_size else "no softmax: embed gives its vectors"

    def zero_carry(self, config: Any, rows: int) -> Any:
        """See `Family`."""
        return zero_state(config, rows)


def with_boundaries(
    characters_BLC: Integer[Array, "B L C"], lengths_B: Int[Array, "B"]
) -> tuple[Integer[Array, "B L2 C"], Int[Array, "B"]]:
    """(each row with `<S>` before and `</S>` after its words, its new length)."""
    begin_C, end_C = word_characters([BEGIN, END], slots=characters_BLC.shape[2])
    grow = ((0, 0), (1, 1), (0, 0))
    x = jnp.pad(characters_BLC, grow, constant_values=NO_WORD)
    at_L = jnp.arange(x.shape[1])[None]
    last_B1 = lengths_B[:, None] + 1
    x = jnp.where((at_L == 0)[..., None], begin_C[None, None], x)
    x = jnp.where((at_L == last_B1)[..., None], end_C[None, None], x)
    return x, lengths_B + 2


ELMO = ElmoFamily()
