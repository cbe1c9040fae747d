"""Texts → log-probabilities of their tokens, by a model of any family.

    GPT     next            p(token | all before)
    BERT    pll             p(token | all others), a [MASK] in its place: one row each
            pll_word_l2r    p(token | all others but the later ones of its word)
    ELMo    forward         p(word | all before)
            backward        p(word | all after)
            both            the mean of the two

The pseudo-log-likelihood of a BERT is that of Salazar et al. 2020 (arXiv 1910.14659);
left to right within words it is that of Kauf & Ivanova 2023 (arXiv 2305.10588): a word
of several pieces is not given away by its last ones. Rows of about one length share a
compiled program. Next: `zeroshot/`.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm import mesh
from jaxlm.config import ModelConfig
from jaxlm.config.checks import check_fields, instead, shown
from jaxlm.families import family_of
from jaxlm.families.family import Family, Tokens
from jaxlm.losses import each_cross_entropy
from jaxlm.models.kernels.head import tied_logits
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.words import UNKNOWN_ID
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import UserError, note, plural

_AT_ONCE = 1 << 13  # texts whose rows are in memory together


@dataclass(frozen=True)
class Scoring:
    """How texts are scored."""

    method: str = ""
    """pll or pll_word_l2r of a BERT; both, forward or backward of an ELMo; empty: the
    first, of a GPT the only one, next."""
    stride: Annotated[int, "[0, inf)"] = 0
    """New tokens in each window of a text longer than a GPT's context; the others are
    read again. 0: as many as fit, so that nothing is read twice."""

    def __post_init__(self) -> None:
        check_fields(self)


class Scored(NamedTuple):
    """The log-probabilities of a text's tokens, in nats."""

    tokens: tuple[str, ...]
    log_p: np.ndarray  # float32 [n]
    likeliest: np.ndarray  # bool [n]: no other token has more
    whole: bool  # False: longer than the context, read in windows

    @property
    def total(self) -> float:
        """The log-probability of the text."""
        return float(self.log_p.sum(dtype=np.float64))

    @property
    def mean(self) -> float:
        """The mean over its tokens."""
        return self.total / len(self.log_p)


class _Query(NamedTuple):
    """A row, and the tokens that are asked for at some places of it."""

    row: Tokens
    places: np.ndarray  # int [P]
    targets: np.ndarray  # int [P]


class _Text(NamedTuple):
    """A text behind its prompt."""

    ids: np.ndarray  # of both
    row: Tokens  # as the model reads them: ids, or an ELMo's characters
    word_start: np.ndarray
    first: int  # where the text begins


class Scorer(NamedTuple):
    """A model that scores."""

    module: Any
    params: Any
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """Its config."""
        return self.module.config

    @property
    def family(self) -> Family:
        """Its family."""
        return family_of(self.config)

    def score(
        self,
        texts: Sequence[str],
        prompts: Sequence[str],
        scoring: Scoring,
        never: Sequence[int] = (),
    ) -> list[Scored]:
        """The scores of texts, each behind its prompt, which is not scored.

        White space at the end of a prompt goes with the text, as in
        lm-evaluation-harness. A text with more tokens than the context is read in
        windows; a prompt that does not fit beside its text is truncated on the left.
        `never` are tokens that do not count as likeliest.
        """
        names = self.family.scorings
        if scoring.method and scoring.method not in names:
            raise UserError(
                f"method {scoring.method!r} is not {self.family.article}'s: "
                f"{instead(scoring.method, names)}"
            )
        method = scoring.method or names[0]
        found: list[Scored] = []
        for start in range(0, len(texts), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            read = self._read(texts[some], prompts[some], start)
            groups = [[*self._queries(each, method, scoring.stride)] for each in read]
            answers = iter(self._answer([q for group in groups for q in group], never))
            for each, group in zip(read, groups, strict=True):
                parts = [next(answers) for _ in group]
                found.append(self._scored(each, parts, method))
        if cut := sum(not each.whole for each in found):
            width = self.family.window(self.config)
            note(
                f"{cut:,} of {plural(len(found), 'text')} too long for the context of "
                f"{width:,} tokens: a prompt is truncated on the left, a longer text "
                "is read in windows"
            )
        return found

    def _read(
        self, texts: Sequence[str], prompts: Sequence[str], start: int
    ) -> list[_Text]:
        kept = [prompt.rstrip() for prompt in prompts]
        whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        tokenizer, boundaries = self.tokenizer, self.tokenizer.boundaries
        before = {prompt: len(self._ids(prompt)) for prompt in {*kept}}
        ids, word_start, counts, _ = tokenizer.encode_flat(whole)
        if tokenizer.keeps_oov_words:
            ids = np.where(ids < tokenizer.vocab_size, ids, UNKNOWN_ID)
        warn_unknown(tokenizer, counted(tokenizer, ids))
        frame = self.family.frame(self.config, tokenizer)
        found = []
        ends = np.cumsum(counts)
        for i, (text, prompt) in enumerate(zip(whole, kept, strict=True)):
            own = slice(ends[i] - counts[i], ends[i])
            if boundaries and counts[i]:
                own = slice(own.start + 1, own.stop - 1)
            row = frame.spelled(text)[0] if boundaries else ids[own]
            found.append(_Text(ids[own], row, word_start[own], before[prompt]))
            if len(found[-1].ids) <= before[prompt]:
                said = f"texts[{start + i}] = {shown(texts[i])}"
                raise UserError(f"{said} has no token to score")
        return found

    def _ids(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text).ids
        return ids[1:-1] if self.tokenizer.boundaries else ids

    def _queries(self, text: _Text, method: str, stride: int) -> Iterator[_Query]:
        """The rows that score a text, in the order of its tokens."""
        if not self.family.bidirectional:
            yield from self._causal(text, stride)
        elif self.family.fills:
            yield from self._masked(text, method == "pll_word_l2r")
        else:
            width, size = self.family.window(self.config), len(text.ids)
            for start in range(text.first // width * width, size, width):
                asked = np.arange(max(start, text.first), min(start + width, size))
                row = text.row[start : start + width]
                yield _Query(row, asked - start, text.ids[asked])

    def _causal(self, text: _Text, stride: int) -> Iterator[_Query]:
        ids, first = text.ids, text.first
        if not first:
            begin = self.tokenizer.begin_of_text
            if begin is None:
                raise UserError("no prompt, and a vocabulary without <|endoftext|>")
            ids, first = np.append(np.int32(begin), ids), 1
        width = self.config.max_length
        stride = min(stride, width) or width
        end = min(len(ids), max(first + stride, 1 + width))
        while True:
            start = max(0, end - 1 - width)
            asked = np.arange(first, end)
            yield _Query(ids[start : end - 1], asked - start, ids[asked])
            if end == len(ids):
                return
            first, end = end, min(len(ids), end + stride)

    def _masked(self, text: _Text, words: bool) -> Iterator[_Query]:
        frame = self.family.frame(self.config, self.tokenizer)
        special: Any = self.tokenizer.special
        size = len(text.ids)
        width = self.family.window(self.config)
        starts = np.append(np.flatnonzero(text.word_start), size)
        for at in range(text.first, size):
            start = max(0, min(at - width // 2, size - width))
            end = starts[np.searchsorted(starts, at, "right")] if words else at + 1
            ids = text.ids.copy()
            ids[at:end] = special.mask
            row = frame.row(ids[start : start + width])
            place = np.array([len(frame.begin) + at - start])
            yield _Query(row, place, text.ids[at : at + 1])

    def _scored(self, text: _Text, parts: Sequence[Any], method: str) -> Scored:
        log_p, likeliest = (
            np.concatenate(each, -1) for each in zip(*parts, strict=True)
        )
        if log_p.ndim == 2:  # both directions
            axis = {"forward": slice(1), "backward": slice(1, 2)}
            chosen = axis.get(method, slice(2))
            log_p, likeliest = log_p[chosen].mean(0), np.all(likeliest[chosen], 0)
        asked = text.ids[text.first :]
        tokens = tuple(self.tokenizer.token(int(id)) for id in asked)
        # The last token of a GPT's row is not read; without a prompt, the first one is
        # before the text.
        more = not self.family.bidirectional and text.first > 0
        whole = len(text.ids) <= self.family.window(self.config) + more
        return Scored(tokens, log_p, np.asarray(likeliest), whole)

    def _answer(self, queries: list[_Query], never: Sequence[int]) -> list[Any]:
        """(log-probabilities, likeliest) of each query's targets, [P] or [2, P]."""
        longest = self.config.max_length if self.family.fills else 1 << 30
        longest = longest if self.family.bidirectional else self.config.max_length
        groups: dict[tuple[int, int], list[int]] = {}
        for i, query in enumerate(queries):
            length = min(length_bucket(len(query.row)), longest)
            asked = min(1 << 2 * math.ceil(math.log(len(query.places), 4)), length)
            groups.setdefault((length, asked), []).append(i)
        banned_V = None
        if len(never):
            banned_V = np.isin(np.arange(self.config.vocab_size), never)
        frame = self.family.frame(self.config, self.tokenizer)
        budget = 1 << (12 if mesh.platform() == "cpu" else 16)  # tokens of a batch
        waiting = []
        for (length, asked), numbers in groups.items():
            # A few sizes of a batch, so that few programs are compiled.
            most = max(1, budget // length)
            rows = min(most, 1 << 2 * math.ceil(math.log(len(numbers), 4)))
            for start in range(0, len(numbers), rows):
                own = [queries[i] for i in numbers[start : start + rows]]
                own += own[:1] * (rows - len(own))
                tokens_BL, mask_BL = frame.padded([each.row for each in own], length)
                places_BP, targets_BP = np.zeros((2, rows, asked), np.int32)
                for row, each in enumerate(own):
                    places_BP[row, : len(each.places)] = each.places
                    targets_BP[row, : len(each.places)] = each.targets
                batch = tokens_BL.astype(np.int32), mask_BL.sum(1, dtype=np.int32)
                batch = *batch, places_BP, targets_BP
                out = _log_p(self.family, self.module, self.params, *batch, banned_V)
                waiting.append((numbers[start : start + rows], out))
        found: list[Any] = [()] * len(queries)
        for numbers, out in waiting:
            log_p, likeliest = map(np.asarray, out)
            for row, i in enumerate(numbers):
                own = ..., row, slice(len(queries[i].places))
                found[i] = log_p[own], likeliest[own]
        return found


def length_bucket(length: int) -> int:
    """16, 24, 32, 48, 64, 96 …: the length to pad a row to, so that few programs are
    compiled."""
    power = 1 << max(4, (length - 1).bit_length())
    return power * 3 // 4 if 16 < length <= power * 3 // 4 else power


@functools.partial(jax.jit, static_argnames=("family", "module"))
def _log_p(
    family: Family,
    module: Any,
    params: Any,
    tokens_BL: Int[Array, "B L *C"],
    lengths_B: Int[Array, "B"],
    places_BP: Int[Array, "B P"],
    targets_BP: Int[Array, "B P"],
    banned_V: Bool[Array, "V"] | None,
) -> tuple[Float[Array, "*both B P"], Bool[Array, "*both B P"]]:
    """(log-probabilities of the targets, whether no token but a banned one has more).

    Logits are computed for a chunk of places at a time.
    """
    given = {"params": params}, tokens_BL, lengths_B, places_BP
    classes = module.config.vocab_size

    def each(place: Any) -> Any:
        x, targets = place
        logits = tied_logits(x, head.table)
        if head.bias is not None:
            logits += head.bias.reshape((1,) * (logits.ndim - 1) + (-1,))
        logits = logits[..., :classes]
        targets = jnp.broadcast_to(targets, logits.shape[:-1])
        loss, likeliest = each_cross_entropy(logits, targets)
        if banned_V is not None:
            open_V = banned_V.reshape((1,) * (logits.ndim - 1) + (-1,))
            allowed = jnp.where(open_V, -jnp.inf, logits)
            likeliest = each_cross_entropy(allowed, targets)[1]
        return -loss, likeliest > 0

    with jax.default_matmul_precision("float32"):
        head = module.apply(*given, method=family.predict)
        places = jnp.moveaxis(head.x, -2, 0), targets_BP.T
        count, rows = len(targets_BP.T), math.prod(head.x.shape[:-2])
        at_once = 1 << (25 if mesh.platform() == "cpu" else 28)  # logits
        size = min(count, max(1, at_once // (rows * classes)))
        log_p, likeliest = jax.lax.map(each, places, batch_size=size)
    return jnp.moveaxis(log_p, 0, -1), jnp.moveaxis(likeliest, 0, -1)
