"""Texts → hidden states of every layer, computed once and kept on disk.

A text is tokenised in pieces, so that the tokens of a word are known, whatever the
tokenizer. Where a token begins with the space before its word, as in GPT-2, the space
goes with the word:

    BERT    They sat by the | bank | .          GPT    They sat by the |  bank | .

A GPT's states know only what comes before. Next: `senses.py`, `edge.py`.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import ModelConfig
from jaxlm.families import build, family_of
from jaxlm.families.family import Frame, Tokens
from jaxlm.files import DamagedError, locked, read_object, write_sealed
from jaxlm.models.encoder import Encoded
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.train.state import init_params
from jaxlm.tree import leaves

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
    cache: Path | None,
    tell: Callable[[str], None] = lambda _: None,
    batch: int = 16,
) -> States:
    """The states of all texts, from `cache` if they are there; a killed call goes on
    where it was, and what was damaged there is computed again. Without a cache they
    are in memory."""
    sizes = np.array([each.end - each.first for each in texts], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    width = family_of(reader.config).width(reader.config)
    shape = int(offsets[-1]), reader.config.num_layers + 1, width
    if cache is None:
        hidden = np.zeros(shape, np.float32)
        for _ in _read(reader, texts, States(hidden, offsets), batch):
            pass
        return States(hidden, offsets)
    here = cache / _digest(reader, texts, batch)
    here.mkdir(parents=True, exist_ok=True)
    path, progress = here / "states.f32", here / "done.json"
    batches = _batches(texts, batch)
    with locked(here / "lock"):
        with open(path, "ab") as file:  # a full disk is an error here
            os.posix_fallocate(file.fileno(), 0, 4 * int(np.prod(shape)))
        hidden = np.memmap(path, np.float32, "r+", shape=shape)
        states, digests = States(hidden, offsets), list[str]()
        for chosen, digest in zip(batches, _known(progress), strict=False):
            if _sha256(states, chosen) != digest:
                break  # this batch and those after it are computed again
            digests.append(digest)
        for number in _read(reader, texts, states, batch, len(digests)):
            digests.append(_sha256(states, batches[number - 1]))
            if number == len(batches) or not number % _EVERY:
                hidden.flush()
                write_sealed(progress, {"batches": digests})
                tell(f"states: {number / len(batches):.0%}")
    return States(np.memmap(path, np.float32, "r", shape=shape), offsets)


def _known(progress: Path) -> list[Any]:
    """The digests of the batches that are on disk; [] if the file is damaged."""
    with contextlib.suppress(DamagedError):
        found = read_object(progress).get("batches")
        return found if isinstance(found, list) else []
    return []


def _sha256(states: States, chosen: np.ndarray) -> str:
    """The digest of the states of some texts."""
    total = hashlib.sha256()
    for i in chosen:
        total.update(states.hidden[states.offsets[i] : states.offsets[i + 1]].tobytes())
    return total.hexdigest()


def _batches(texts: Sequence[Text], size: int) -> list[np.ndarray]:
    """The numbers of the texts of each batch; texts of equal length are together."""
    order = np.argsort([len(each.tokens) for each in texts], kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode(
    config: ModelConfig, params: Any, rows: Sequence[Any], **facts: Any
) -> Encoded:
    """What a model makes of rows: (tokens, token types, mask). To be compiled."""
    family = family_of(config)
    how = {"method": family.encode, **facts}
    with jax.default_matmul_precision("float32"):
        out, _ = family.encoder(config).apply({"params": params}, *rows, **how)
    return out


@functools.partial(jax.jit, static_argnums=0)
def _hidden(config: ModelConfig, params: Any, tokens: Any, mask: Any, carry: Any):
    rows = tokens, jnp.zeros(mask.shape, jnp.int32), mask
    return encode(config, params, rows, carry=carry).hidden.astype(jnp.float32)


def _read(
    reader: Reader, texts: Sequence[Text], into: States, size: int, done: int = 0
) -> Iterator[int]:
    """Write the states of texts from batch `done` on; yield how many are done."""
    config, frame = reader.config, reader.frame()
    carry, before = family_of(config).zero_carry(config, size), len(frame.begin)
    for number, chosen in enumerate(_batches(texts, size)[done:], start=done + 1):
        rows = [frame.row(texts[i].tokens) for i in chosen]
        rows += rows[:1] * (size - len(rows))
        longest = -(-max(map(len, rows)) // 32) * 32  # so that few programs compile
        length = min(longest, config.max_length)
        tokens, mask = frame.padded(rows, length)
        hidden = _hidden(config, reader.params, tokens.astype(np.int32), mask, carry)
        states = np.asarray(hidden).transpose(1, 2, 0, 3)  # [rows, L, M, D]
        for row, i in enumerate(chosen):
            kept = slice(before + texts[i].first, before + texts[i].end)
            into.hidden[into.offsets[i] : into.offsets[i + 1]] = states[row, kept]
        yield number


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
