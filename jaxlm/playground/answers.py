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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxlm.families.samples import HOLE
from jaxlm.page import page, table
from jaxlm.probe import attention_page
from jaxlm.probe.attention import Looker
from jaxlm.probe.features import Reader
from jaxlm.probe.pictures import uses_table
from jaxlm.probe.senses import Use, near, unit, uses_in, vectors_of
from jaxlm.types import Note, UserError

Answer = Iterator[dict[str, Any]]
_WORDS, _NEAREST = 1000, 8
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
        here = vectors_of(self.reader, [use], None)[0]  # [M, D]
        cosine_MV = np.einsum("md,vmd->mv", unit(here), vectors)
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
        vectors = vectors_of(self.reader, uses, None)
        found = [near(vectors[:, i]) for i in range(vectors.shape[1])]
        yield {"html": uses_table(self.reader.layers(), found, uses)}
        yield {"note": "Each column: the nearest other use, by number, and its cosine."}
        if not self.model.family.bidirectional:
            yield {"note": "A decoder's vector knows only what stands before the word."}

    def _attention(self, asked: Mapping[str, Any]) -> Answer:
        text, looker, config = _text(asked, "text"), self._looker, self.model.config
        every = [range(1, n + 1) for n in (config.num_layers, config.num_heads)]
        shown, cut = attention_page.looked(looker, text, (every[0], every[1]))
        found = looker.heads([text])
        known = attention_page.known(found, causal=looker.causal)
        parts = attention_page.parts(shown, found, known)[:1]
        code = {"style": attention_page.STYLE, "script": attention_page.SCRIPT}
        yield {"page": page("Where heads look", [], parts, **code)}
        if cut:
            yield {"note": cut}

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
        return names, unit(vectors_of(self.reader, uses, None))


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
