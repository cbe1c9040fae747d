"""Texts → a tokenizer with a trained vocabulary; equal texts give equal bytes."""

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from jaxlm.config import TextConfig
from jaxlm.text.tokenizers.bpe import ByteBpe, byte_runs
from jaxlm.text.tokenizers.sentencepiece import SentencePiece
from jaxlm.text.tokenizers.tokenizer import END_OF_DOCUMENT, SPECIAL, Tokenizer, padded
from jaxlm.text.tokenizers.words import (
    MARKS,
    MAX_WORD,
    WordPiece,
    WordVocab,
    basic_words,
    runs_of,
)
from jaxlm.types import UserError

Texts = Iterable[str]  # sentences, or whole texts; read once, not kept
MOST_RUNS = (1 << 19) - 1  # distinct runs of characters that are counted
MOST_WORDS = 1 << 18  # distinct words that are learnt from
# Bytes of text that the costlier learners read, so that all stay below 600 MB.
BYTES_FOR_BPE = 16 << 20
DISTINCT_FOR_BPE = 2 << 20  # bytes of different words
LONGEST_BYTE_WORD = 256  # bytes; the learner takes the square of their number in time
BYTES_FOR_SENTENCEPIECE = 8 << 20
_LONGEST = 1 << 13  # bytes of a sentence; SentencePiece leaves longer ones out


def train_tokenizer(texts: Texts, text: TextConfig, vocab_size: int) -> Tokenizer:
    """A tokenizer with exactly `vocab_size` entries; equal texts give equal bytes.

    Its special tokens are [PAD] [UNK] [CLS] [SEP] [MASK], except for a decoder or ELMo.
    If the texts yield too few entries, `[unusedN]` entries follow.
    """
    if text.tokenizer not in _LEARNERS:
        files = "encoder_bpe_40000.json and vocab_40000.bpe"
        remedy = f"pass --tokenizer and a directory with {files}"
        raise UserError(f"GPT-1's vocabulary is not learnt here: {remedy}")
    if text.verbatim and text.tokenizer != "byte_bpe":
        loses = "loses spaces and line ends, which text.verbatim keeps"
        remedy = "pass --text.tokenizer byte_bpe"
        raise UserError(f"a {text.tokenizer} vocabulary {loses}: {remedy}")
    return _LEARNERS[text.tokenizer](texts, text, vocab_size)


def _wordpiece(texts: Texts, text: TextConfig, vocab_size: int) -> Tokenizer:
    """WordPiece: [PAD] [UNK] [CLS] [SEP] [MASK], "##" characters, characters, pieces.

    The most frequent characters take at most half of the vocabulary, or more if there
    are too few pieces (Chinese). Words with other characters do not yield pieces.
    """
    words = count_words(texts, lowercase=text.lowercase)
    _check_size(vocab_size, len(SPECIAL) + 2)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            counts[char] += count
    inside = {char for word in words for char in word[1:]}
    # Each character's entries, the most frequent first.
    forms = {c: [c, f"##{c}"] if c in inside else [c] for c, _ in _by_count(counts)}
    room = max((vocab_size - len(SPECIAL)) // 2, 2)
    alphabet: list[str] = []
    for of_character in forms.values():
        if len(alphabet) + len(of_character) > room:
            break
        alphabet += of_character
    # The library numbers "##c" in an order that changes from process to process, and
    # breaks ties by number: given as special tokens, sorted, they have fixed numbers.
    # They stay plain entries: only the vocabulary is taken from the library.
    continuing = sorted(form for form in alphabet if len(form) > 1)
    known = {form for form in alphabet if len(form) == 1}
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *continuing],
        limit_alphabet=1 << 30,
        initial_alphabet=sorted(known),
        show_progress=False,
    )
    spelled = {word: n for word, n in words.items() if known.issuperset(word)}
    model = models.WordPiece(unk_token="[UNK]")
    tokens, _ = _learnt(model, trainer, spelled)
    learnt = set(tokens)
    rest = [form for each in forms.values() for form in each if form not in learnt]
    tokens += rest[: vocab_size - len(tokens)]
    tokenizer = WordPiece(padded(tokens, vocab_size), lowercase=text.lowercase)
    left_out = forms.keys() - set(tokens)
    unknown = (n for word, n in words.items() if not left_out.isdisjoint(word))
    tokenizer.training = {
        "words": sum(words.values()),
        "characters": len(forms),
        "characters_left_out": len(left_out),
        "words_unknown": sum(unknown),
        "unused": vocab_size - len(tokens),
    }
    return tokenizer


def _words(texts: Texts, text: TextConfig, vocab_size: int) -> Tokenizer:
    """ELMo's words: `<S>` `</S>` `<UNK>`, then the most frequent words in order."""
    lower, whole = text.lowercase, text.words == "space"
    counts = count_words(texts, lowercase=lower, whole=whole, room=vocab_size)
    for mark in MARKS:
        counts.pop(mark, None)
    _check_size(vocab_size, len(MARKS) + 1)
    tokens = (*MARKS, *counts)[:vocab_size]
    every = padded(tokens, vocab_size)
    tokenizer = WordVocab(every, lowercase=lower, words=text.words)
    unknown = itertools.islice(counts.values(), vocab_size - len(MARKS), None)
    tokenizer.training = {
        "words": sum(counts.values()),
        "words_unknown": sum(unknown),
        "unused": vocab_size - len(tokens),
    }
    return tokenizer


def _byte_bpe(texts: Texts, text: TextConfig, vocab_size: int) -> Tokenizer:
    """Byte-level BPE: [PAD] [UNK] [CLS] [SEP] [MASK], 256 bytes, pieces.

    For a decoder (verbatim) as in GPT-2: 256 bytes, pieces, <|endoftext|>. The learner
    needs about 100 bytes of memory for each byte of a distinct word, and a Chinese word
    is a whole clause, so texts are read until the distinct words have 2 MB.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first, last = ((), (END_OF_DOCUMENT,)) if text.verbatim else (SPECIAL, ())
    _check_size(vocab_size, len(first) + len(alphabet) + len(last))
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    words: Counter[str] = Counter()  # as they are spelled: " the" is "Ġthe"
    distinct = 0
    for each in _up_to(texts, BYTES_FOR_BPE):
        for run, count in Counter(byte_runs(each)).items():
            for word, _ in cut(run):
                if len(word) <= LONGEST_BYTE_WORD:
                    distinct += 0 if word in words else len(word)
                    words[word] += count
        if distinct > DISTINCT_FOR_BPE:
            break
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(last),
        min_frequency=2,
        special_tokens=list(first),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learnt, model = _learnt(models.BPE(), trainer, dict(_by_count(words)))
    tokens = padded((*learnt, *last), vocab_size)  # nothing draws what pads the end
    tokenizer = ByteBpe(tokens, model["merges"])
    tokenizer.training = {"unused": len(tokens) - len(last) - len(learnt)}
    return tokenizer


def _sentencepiece(texts: Texts, text: TextConfig, vocab_size: int) -> Tokenizer:
    """SentencePiece, unigram: [PAD] [UNK] [CLS] [SEP] [MASK], pieces, rarest last."""
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_up_to(texts, BYTES_FOR_SENTENCEPIECE),
            model_writer=written,
            vocab_size=vocab_size,
            model_type="unigram",
            hard_vocab_limit=False,
            max_sentence_length=_LONGEST,
            num_threads=1,  # the result depends on it
            pad_id=0,
            pad_piece=SPECIAL[0],
            unk_id=1,
            unk_piece=SPECIAL[1],
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(SPECIAL[2:]),
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[-1].rpartition("] ")[2]
        raise UserError(f"SentencePiece cannot learn a vocabulary: {reason}") from None
    learnt = SentencePiece(written.getvalue())
    tokenizer = learnt.grown(vocab_size)
    tokenizer.training = {"unused": tokenizer.vocab_size - learnt.vocab_size}
    return tokenizer


_LEARNERS: dict[str, Callable[[Texts, TextConfig, int], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "byte_bpe": _byte_bpe,
    "sentencepiece": _sentencepiece,
    "words": _words,
}


def _check_size(vocab_size: int, least: int) -> None:
    if vocab_size < least:
        raise UserError(f"model.vocab_size = {vocab_size} is below {least}")


def count_words(
    texts: Texts, *, lowercase: bool, whole: bool = False, room: int = 0
) -> dict[str, int]:
    """Word → count, most frequent first; the rarest of very many words are dropped.

    With `whole`, words are separated by white space alone, not by BERT's rules. At
    least `room` of the words are kept.
    """
    runs: Counter[str] = Counter()
    rarest = size = 0
    for text in itertools.chain(texts, [None]):  # None: there is no more
        if text is not None:
            runs.update(text.split() if whole else runs_of(text))
            size += len(text) + 1
        if text is None or size >= 1_000_000:
            size = 0
            while len(runs) > max(MOST_RUNS, 4 * room):
                rarest += 1
                runs = Counter({run: n for run, n in runs.items() if n > rarest})
    words: Counter[str] = Counter()
    for run, count in runs.items():
        run = run.lower() if whole and lowercase else run
        for word in [run] if whole else basic_words(run, lowercase=lowercase):
            if len(word) <= MAX_WORD:
                words[word] += count
    if not words:
        raise UserError("there is no text to learn a vocabulary from")
    return dict(_by_count(words)[: max(MOST_WORDS, room)])


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(word, count) pairs, sorted by falling count, then by spelling."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _learnt(
    model: models.Model, trainer: trainers.Trainer, words: Mapping[str, int]
) -> tuple[list[str], dict[str, Any]]:
    """(tokens in order of id, the trained model as JSON), learnt from word counts."""

    def texts() -> Iterator[str]:
        for word, count in words.items():
            for done in range(0, count, 1000):
                yield f"{word} " * min(1000, count - done)

    library = Library(model)
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.train_from_iterator(texts(), trainer)
    learnt = json.loads(library.to_str())["model"]
    return sorted(learnt["vocab"], key=learnt["vocab"].__getitem__), learnt


def _up_to(texts: Texts, limit: int) -> Iterator[str]:
    """The first texts, until they have `limit` bytes."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return
