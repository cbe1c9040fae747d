"""A model and what a user typed → answers, as parts of HTML or of text.

An answer is a sequence of records: {"html": …}, {"text": a piece of a text}, {"note":
…}, {"page": a page of its own}. Next: `server.py`, which sends each as it comes.
"""

import functools
import html
import queue
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.families.samples import HOLE
from jaxlm.page import page, table
from jaxlm.probe import attention_page
from jaxlm.probe.attention import Looker
from jaxlm.probe.features import Reader, Text, text_of_use
from jaxlm.probe.pictures import uses_table
from jaxlm.probe.senses import Near, Use, uses_in
from jaxlm.types import Note, UserError
from jaxlm.vectors import bucket

Answer = Iterator[dict[str, Any]]
_WORDS, _NEAREST, _ROWS = 1000, 8, 16
_LONGEST = 128  # tokens whose attention is shown
_SETTINGS = {"max_tokens": int, "temperature": float, "top_k": int, "top_p": float}
_SETTINGS |= {"seed": int}


class Answers:
    """What a loaded `Model` can do on a page; one answer at a time."""

    def __init__(self, model: Any):
        self.model = model
        self.reader = Reader(model.config, model.params, model.tokenizer)
        self.kinds: dict[str, Callable[[Mapping[str, Any]], Answer]] = {}
        missing = model.family.missing_head(model.config, model.params)
        if model.family.fills and not missing:
            self.kinds["fill"] = self._fill
        if not model.family.bidirectional:
            self.kinds["generate"] = self._generate
        self.kinds |= {"words": self._words, "senses": self._senses}
        if model.family.attends:
            self.kinds["attention"] = self._attention
        self._lock = threading.Lock()

    def answer(self, kind: str, asked: Mapping[str, Any]) -> Answer:
        """The records of an answer; the last is {"error": …} if it is refused."""
        with self._lock, warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", Note)
            try:
                yield from self.kinds[kind](asked)
            except UserError as error:
                yield {"error": str(error)}
            except Exception as error:  # of jaxlm: the page says it, the terminal where
                traceback.print_exc()
                yield {"error": f"{type(error).__name__}: {error}"}
            for each in {str(n.message): n for n in noted}:
                yield {"note": each}

    def _fill(self, asked: Mapping[str, Any]) -> Answer:
        found = self.model.fill(_text(asked, "text"), 10)
        for number, guesses in enumerate(found):
            rows = []
            for guess in guesses:
                word = html.escape(guess.token)
                share = f"{guess.probability:.1%}"
                bar = f"<meter value={guess.probability:.4f} title='{share}'></meter>"
                take = f"<button type=button data-hole={number} data-word='{word}'>"
                rows.append([f"{take}<bdi>{word}</bdi></button>", share, bar])
            yield {"html": table([f"{HOLE} {number + 1}", "", ""], rows)}

    def _generate(self, asked: Mapping[str, Any]) -> Answer:
        settings = {
            name: _number(asked, name, kind) for name, kind in _SETTINGS.items()
        }
        pieces: queue.Queue[Any] = queue.Queue()

        def run() -> None:
            try:
                how = {"scored": True, "stream": pieces.put, **settings}
                pieces.put(self.model.generate(_text(asked, "text", ""), **how))
            except Exception as error:
                pieces.put(error)

        threading.Thread(target=run, daemon=True).start()
        while isinstance(piece := pieces.get(), str):
            yield {"text": piece}
        if isinstance(piece, Exception):
            raise piece
        (found,) = piece
        rows = []
        for id, score in zip(found.tokens, found.scores, strict=True):
            token = html.escape(self.model.tokenizer.decode([int(id)])).replace(
                "\n", "⏎"
            )
            rows.append([f"<bdi>{token}</bdi>", f"{score:.2f}", f"{np.exp(score):.1%}"])
        total = float(np.sum(found.scores))
        inside = table(["token", "log-probability", "probability"], rows)
        title = f"{len(rows)} tokens, log-probability {total:.1f}"
        yield {"html": f"<details><summary>{title}</summary>{inside}</details>"}

    def _words(self, asked: Mapping[str, Any]) -> Answer:
        text, word = _text(asked, "text"), _text(asked, "word")
        use = uses_in(word, [text], least=1)[0]
        names, vectors = self._vocabulary
        here = self._vectors([use])[0]  # [M, D]
        cosine_MV = np.einsum("md,vmd->mv", _unit(here), vectors)
        rows = []
        for layer, cosines in zip(self.reader.layers(), cosine_MV, strict=True):
            best = [i for i in np.argsort(-cosines) if names[i] != use.word.lower()]
            said = [
                f"<bdi>{html.escape(names[i])}</bdi> <small>{cosines[i]:.2f}</small>"
                for i in best[:_NEAREST]
            ]
            rows.append([layer, " · ".join(said)])
        yield {"html": table(["layer", f"words nearest to “{use.word}” here"], rows)}
        yield {
            "note": f"Of {len(names):,} words of the vocabulary, each read alone, by "
            "cosine in the layer."
        }

    def _senses(self, asked: Mapping[str, Any]) -> Answer:
        lines = [each for each in _text(asked, "text").splitlines() if each.strip()]
        uses = uses_in(_text(asked, "word"), lines)
        vectors = self._vectors(uses)
        found = []
        for layer in range(vectors.shape[1]):
            unit = _unit(vectors[:, layer])
            cosine = unit @ unit.T
            others = np.where(np.eye(len(uses), dtype=bool), -np.inf, cosine)
            order = np.argsort(-np.round(others, 6), axis=1, kind="stable")[:, :-1]
            found.append(Near(cosine, order, np.zeros((len(uses), 2)), 0.0))
        yield {"html": uses_table(self.reader.layers(), found, uses)}
        yield {"note": "Each column: the nearest other use, by number, and its cosine."}
        if not self.model.family.bidirectional:
            yield {"note": "A decoder's vector knows only what stands before the word."}

    def _attention(self, asked: Mapping[str, Any]) -> Answer:
        text, looker, config = _text(asked, "text"), self._looker, self.model.config
        tokens, names = looker.frame.spelled(text)
        shape = config.num_layers, config.num_heads
        room = min(looker.room, attention_page.shown_tokens(shape[0] * shape[1]))
        row = looker.frame.row(tokens[:room])
        found = looker.heads([text])
        known = attention_page.known(found, causal=looker.causal)
        figures = {name: found.figures[name] for name in known}
        layers, heads = (list(range(1, each + 1)) for each in shape)
        spelled = looker.spelled(row), looker.probabilities(row)
        looked = attention_page.Looked(*spelled, layers, heads)
        parts = [("Heads by layer", attention_page.explorer(looked, figures))]
        code = {"style": attention_page.STYLE, "script": attention_page.SCRIPT}
        yield {"page": page("Where heads look", [], parts, **code)}
        if len(names) > room:
            yield {"note": f"The first {room} of {len(names):,} tokens are shown."}

    @functools.cached_property
    def _looker(self) -> Looker:
        frame = self.reader.frame()
        edges = len(frame.begin) + len(frame.end)
        most = self.model.family.window(self.model.config) + edges
        return Looker(self.reader, min(most, _LONGEST))

    @functools.cached_property
    def _vocabulary(self) -> tuple[list[str], np.ndarray]:
        """(frequent whole words, their unit vectors [V, M, D], each read alone)."""
        names = whole_words(self.model.tokenizer, _WORDS)
        if not names:
            raise UserError("the vocabulary has no whole words to compare with")
        # A decoder's first token says little of itself, so a word has another before.
        lead = "" if self.model.family.bidirectional else "the "
        uses = [Use(lead + each, len(lead), len(lead) + len(each)) for each in names]
        return names, _unit(self._vectors(uses))

    def _vectors(self, uses: Sequence[Use]) -> np.ndarray:
        """The vectors of uses in all layers, [uses, M, D], means over their tokens."""
        frame, found = self.reader.frame(), []
        first = len(frame.begin)
        for start in range(0, len(uses), _ROWS):
            part = uses[start : start + _ROWS]
            texts = [text_of_use(self.reader, *each[:3]) for each in part]
            for use, text in zip(part, texts, strict=True):
                if text is None:
                    raise UserError(f"{use.word!r} has no tokens, or too many")
            known: list[Text] = [each for each in texts if each]
            rows = [frame.row(each.tokens) for each in known]
            rows += rows[:1] * (_ROWS - len(rows) if len(uses) > 1 else 0)
            length = min(bucket(max(map(len, rows))), self.model.config.max_length)
            tokens, mask = frame.padded(rows, length)
            hidden = np.asarray(self._encode(self.reader.params, tokens, mask))
            for i, each in enumerate(known):
                at = slice(first + each.first, first + each.end)
                found.append(hidden[:, i, at].mean(1))
        return np.stack(found)

    @functools.cached_property
    def _encode(self) -> Any:
        family, config = self.model.family, self.model.config
        encoder = family.encoder(config)

        @jax.jit
        def encode(params: Any, tokens: Any, mask: Any) -> Any:
            tokens, types = jnp.asarray(tokens, jnp.int32), jnp.zeros(mask.shape, int)
            carry = family.zero_carry(config, len(tokens))
            with jax.default_matmul_precision("float32"):
                inputs = {"params": params}, tokens, types, mask
                out, _ = encoder.apply(*inputs, carry=carry, method=family.encode)
            return out.hidden.astype(jnp.float32)

        return encode


def whole_words(tokenizer: Any, most: int) -> list[str]:
    """The first words of a vocabulary, which are its most frequent, without pieces."""
    spelled = any("Ġ" in each for each in tokenizer.tokens[:2000])
    words: dict[str, None] = {}
    for token in tokenizer.tokens:
        if len(words) == most:
            break
        word = token.replace("Ġ", "").replace("▁", "").removesuffix("</w>")
        piece = token.startswith("##") or (spelled and not token.startswith("Ġ"))
        if not piece and word.isalpha() and (len(word) > 1 or ord(word) > 0x2E80):
            words.setdefault(word.lower() if word.isascii() else word)
    return list(words)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _text(asked: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = asked.get(name, "")
    if not isinstance(value, str) or (not value.strip() and default is None):
        raise UserError(f"there is no {name}")
    return value if value.strip() else default or ""


def _number(asked: Mapping[str, Any], name: str, kind: type) -> Any:
    value = str(asked.get(name, ""))
    if not re.fullmatch(r"\d+" if kind is int else r"\d*\.?\d+", value):
        raise UserError(f"{name} = {value!r} is not a number")
    return kind(value)
