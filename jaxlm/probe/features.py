"""Texts → hidden states of every layer, computed once and kept on disk.

A text is tokenised in pieces, so that the tokens of a word are known, whatever the
tokenizer. Where a token begins with the space before its word, as in GPT-2, the space
goes with the word:

    BERT    They sat by the | bank | .          GPT    They sat by the |  bank | .

A GPT's states know only what comes before. Next: `senses.py`, `edge.py`.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import ModelConfig
from jaxlm.families import build, family_of
from jaxlm.families.family import Frame, Tokens
from jaxlm.files import locked, read_object, write_sealed
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.train.state import init_params
from jaxlm.tree import leaves
from jaxlm.types import UserError

_EVERY = 16  # batches between two notes of how far it is


class Reader(NamedTuple):
    """A model as probes see it."""

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer

    def untrained(self, seed: int) -> "Reader":
        """A model of the same shape with random weights."""
        return self._replace(params=init_params(build(self.config), seed))

    def frame(self) -> Frame:
        """How its rows are framed."""
        return family_of(self.config).frame(self.config, self.tokenizer)

    def layers(self) -> list[str]:
        """The names of its layers."""
        return ["0 (embedding)", *map(str, range(1, self.config.num_layers + 1))]


class Text(NamedTuple):
    """A text's tokens, of which `first` … `end` - 1 are kept."""

    tokens: Tokens
    first: int
    end: int


class States(NamedTuple):
    """Hidden states of the kept tokens of all texts, end to end."""

    hidden: np.ndarray  # float32 [tokens, M, D], on disk
    offsets: np.ndarray  # int64 [texts + 1]


def space_before(frame: Frame) -> str:
    """The space that a word's first token begins with: " " or ""."""

    def ids(text: str) -> list:
        return frame.spelled(text)[0].tolist()

    whole, apart = ids("a b"), ids("a") + ids("b")
    return " " if whole == ids("a") + ids(" b") != apart else ""


def text_of_use(reader: Reader, text: str, begin: int, end: int) -> Text | None:
    """The tokens of a text that keeps those of text[begin:end]; None if it has none.

    Of a text longer than the context, the tokens around the word are taken; in a
    decoder, those before it.
    """
    frame, family = reader.frame(), family_of(reader.config)
    if begin and space_before(frame) and text[begin - 1] == " ":
        begin -= 1
    parts = []
    for piece in (text[:begin], text[begin:end], text[end:]):
        tokens, strings = frame.spelled(piece)
        parts.append(tokens[: len(strings)])
    before, size = len(parts[0]), len(parts[1])
    tokens, width = np.concatenate(parts), family.window(reader.config)
    lead = (width - size) // 2 if family.bidirectional else width - size
    start = max(0, min(before - lead, len(tokens) - width))
    if not 0 < size <= width:
        return None
    return Text(tokens[start : start + width], before - start, before - start + size)


def text_of_words(reader: Reader, words: Sequence[str]) -> tuple[Text, np.ndarray]:
    """(the tokens of words, all kept; where in them each word begins, and the end)."""
    frame = reader.frame()
    space = space_before(frame)
    parts = frame.words([*words[:1], *(space + word for word in words[1:])])
    starts = np.cumsum([0, *map(len, parts)])
    return Text(np.concatenate(parts), 0, int(starts[-1])), starts


def hidden_states(
    reader: Reader,
    texts: Sequence[Text],
    cache: Path,
    tell: Callable[[str], None] = lambda _: None,
    batch: int = 16,
) -> States:
    """The states of all texts, from `cache` if they are there; a killed call goes on
    where it was. Memory is bounded by one batch."""
    sizes = np.array([each.end - each.first for each in texts], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    family, count = family_of(reader.config), reader.config.num_layers + 1
    shape = int(offsets[-1]), count, family.width(reader.config)
    here = cache / _digest(reader, texts, batch)
    here.mkdir(parents=True, exist_ok=True)
    path, said = here / "states.f32", here / "done.json"
    order = np.argsort([len(each.tokens) for each in texts], kind="stable")
    batches = np.array_split(order, range(batch, len(order), batch))
    with locked(here / "lock"):
        done = read_object(said)["batches"] if said.exists() and path.exists() else 0
        if done < len(batches):
            with open(path, "r+b" if done else "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 4 * int(np.prod(shape)))
                for number, states in _read(reader, texts, batches, done):
                    for i, each in states:
                        file.seek(4 * int(offsets[i]) * shape[1] * shape[2])
                        file.write(each.tobytes())
                    last = number + 1 == len(batches)
                    if last or not (number + 1) % _EVERY:
                        file.flush()
                        write_sealed(said, {"batches": number + 1})
                        if not last:
                            tell(f"states: {(number + 1) / len(batches):.0%}")
    return States(np.memmap(path, np.float32, "r", shape=shape), offsets)


def _read(reader: Reader, texts: Sequence[Text], batches: list[np.ndarray], done: int):
    """(number of the batch, [(number of the text, states [l, M, D])]) from `done`."""
    config, family, frame = reader.config, family_of(reader.config), reader.frame()
    encoder, first = family.encoder(config), len(frame.begin)

    @jax.jit
    def apply(params: Any, tokens: jax.Array, mask: jax.Array, carry: Any):
        with jax.default_matmul_precision("float32"):
            types = jnp.zeros(mask.shape, jnp.int32)
            inputs = {"params": params}, tokens, types, mask
            out, _ = encoder.apply(*inputs, carry=carry, method=family.encode)
        return out.hidden.astype(jnp.float32)

    rows = len(batches[0])
    carry = family.zero_carry(config, rows)
    for number in range(done, len(batches)):
        read = [texts[i] for i in batches[number]]
        filled = [frame.row(each.tokens) for each in read]
        filled += filled[:1] * (rows - len(filled))
        longest = -(-max(map(len, filled)) // 32) * 32
        padded, mask = frame.padded(filled, min(longest, config.max_length))
        hidden = np.asarray(apply(reader.params, padded.astype(np.int32), mask, carry))
        yield (
            number,
            [
                (i, hidden[:, b, first + text.first : first + text.end].swapaxes(0, 1))
                for b, (i, text) in enumerate(zip(batches[number], read, strict=True))
            ],
        )


def _digest(reader: Reader, texts: Sequence[Text], batch: int) -> str:
    total = hashlib.sha256(repr((reader.config, batch)).encode())
    total.update(reader.tokenizer.sha256.encode())
    for path, leaf in leaves(reader.params):
        total.update(path.encode())
        total.update(np.asarray(leaf).tobytes())
    for each in texts:
        total.update(repr((each.tokens.shape, each.first, each.end)).encode())
        total.update(each.tokens.tobytes())
    return total.hexdigest()[:24]


def chosen(layers: Sequence[int], count: int) -> list[int]:
    """The layers that a user named, counted from the end if negative; none: all."""
    for each in layers:
        if not -count <= each < count:
            raise UserError(f"layer {each}: there are 0 (embedding) to {count - 1}")
    return sorted({each % count for each in layers}) or list(range(count))
