"""Texts → a vocabulary: the same bytes for the same texts, in any process."""

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from jaxlm.text.tokenizers.bpe import ByteBpe, byte_runs
from jaxlm.text.tokenizers.sentencepiece import SentencePiece, with_unused
from jaxlm.text.tokenizers.tokenizer import (
    END_OF_DOCUMENT,
    SPECIAL,
    Kind,
    Tokenizer,
    WordRule,
    padded,
)
from jaxlm.text.tokenizers.word_vocab import MARKS, WordVocab
from jaxlm.text.tokenizers.wordpiece import MAX_WORD, WordPiece, basic_words, runs_of
from jaxlm.types import UserError

MOST_RUNS = (1 << 19) - 1  # distinct runs of characters that are counted
MOST_WORDS = 1 << 18  # distinct words that are learnt from
# Bytes of text that the costlier learners read, so that all stay below 600 MB.
BYTES_FOR_BPE = 16 << 20
DISTINCT_FOR_BPE = 2 << 20  # bytes of different words
LONGEST_BYTE_WORD = 256  # bytes; the learner takes the square of their number in time
BYTES_FOR_SENTENCEPIECE = 8 << 20
_LONGEST = 1 << 13  # bytes of a sentence; SentencePiece leaves longer ones out


def train_tokenizer(
    kind: Kind,
    texts: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool = True,
    verbatim: bool = False,
    words: WordRule = "basic",
) -> Tokenizer:
    """A vocabulary of exactly `vocab_size` entries; equal texts give equal bytes.

    Its special tokens are [PAD] [UNK] [CLS] [SEP] [MASK], but a decoder's and ELMo's.

    Args:
        texts: sentences, or whole texts; read once, not kept.
        vocab_size: `[unusedN]` come at the end if the texts yield fewer.
        lowercase: lower-case and strip accents; WordPiece and words only.
        verbatim: for a decoder, whose only special token is `<|endoftext|>`, the last.
        words: how a vocabulary of words cuts them.
    """
    if verbatim and kind not in ("byte_bpe", "gpt1_bpe"):
        raise UserError(
            f"a {kind} vocabulary loses spaces and line ends, which text.verbatim "
            "keeps: pass --text.tokenizer byte_bpe"
        )
    match kind:
        case "wordpiece":
            return _train_wordpiece(texts, vocab_size, lowercase)
        case "byte_bpe":
            return _train_byte_bpe(texts, vocab_size, verbatim)
        case "sentencepiece":
            return _train_sentencepiece(texts, vocab_size)
        case "words":
            return _train_words(texts, vocab_size, lowercase, words)
        case "gpt1_bpe":
            raise UserError(
                "GPT-1's vocabulary is not learnt here: pass --tokenizer and a "
                "directory with encoder_bpe_40000.json and vocab_40000.bpe, or "
                "vocab.json and merges.txt"
            )


def _train_wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool
) -> WordPiece:
    """[PAD] [UNK] [CLS] [SEP] [MASK], "##" characters, characters, pieces.

    Characters take at most half of the vocabulary, the most frequent ones first, unless
    there are no pieces to fill the rest (Chinese). Words with others are left out.
    """
    words = count_words(texts, lowercase=lowercase)
    _check_size(vocab_size, len(SPECIAL) + 2)
    forms = _forms_of_characters(words)
    room = vocab_size - len(SPECIAL)
    alphabet: list[str] = []
    for char in forms:
        if len(alphabet) + len(forms[char]) > max(room // 2, 2):
            break
        alphabet += forms[char]
    # The library numbers "##c" in an order that changes from process to process, and
    # breaks ties by number: given as special tokens, sorted, they have fixed numbers.
    # They stay plain entries: only the vocabulary is taken from the library.
    continuing = sorted(form for form in alphabet if len(form) > 1)
    known = {form for form in alphabet if len(form) == 1}
    library = Library(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *continuing],
        limit_alphabet=1 << 30,
        initial_alphabet=sorted(known),
        show_progress=False,
    )
    _learn(library, trainer, {w: n for w, n in words.items() if known.issuperset(w)})
    learnt = library.get_vocab(with_added_tokens=True)
    tokens = sorted(learnt, key=learnt.__getitem__)
    rest = [form for char in forms for form in forms[char] if form not in learnt]
    tokens += rest[: vocab_size - len(tokens)]
    tokenizer = WordPiece(padded(tokens, vocab_size), lowercase=lowercase)
    left_out = forms.keys() - set(tokens)
    tokenizer.training = {
        "words": sum(words.values()),
        "characters": len(forms),
        "characters_left_out": len(left_out),
        "words_unknown": sum(
            count for word, count in words.items() if not left_out.isdisjoint(word)
        ),
        "unused": vocab_size - len(tokens),
    }
    return tokenizer


def count_words(
    texts: Iterable[str], *, lowercase: bool, whole: bool = False, room: int = 0
) -> dict[str, int]:
    """The words of the texts, most frequent first; of very many, the rarest are lost.

    Args:
        whole: words are what white space separates, not what BERT's rules cut.
        room: words that are wanted, if more than are learnt from.
    """
    runs: Counter[str] = Counter()
    rarest = 0
    for batch in _batches(texts):
        for text in batch:
            runs.update(text.split() if whole else runs_of(text))
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


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts by the million characters."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text) + 1
        if size >= 1_000_000:
            yield batch
            batch, size = [], 0
    yield batch


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, then by spelling."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _check_size(vocab_size: int, least: int) -> None:
    if vocab_size < least:
        raise UserError(f"model.vocab_size = {vocab_size} is below {least}")


def _forms_of_characters(words: Mapping[str, int]) -> dict[str, list[str]]:
    """Character → its entries ("c", and "##c" if it continues a word), by frequency."""
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for word, count in words.items():
        for char in word:
            counts[char] += count
        continuing.update(word[1:])
    return {c: [c, f"##{c}"] if c in continuing else [c] for c, _ in _by_count(counts)}


def _learn(library: Library, trainer: trainers.Trainer, words: Mapping[str, int]):
    """Train on words by their counts."""

    def texts() -> Iterator[str]:
        for word, count in words.items():
            for done in range(0, count, 1000):
                yield f"{word} " * min(1000, count - done)

    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.train_from_iterator(texts(), trainer)


def _train_words(
    texts: Iterable[str], vocab_size: int, lowercase: bool, words: WordRule
) -> WordVocab:
    """`<S>` `</S>` `<UNK>` and the most frequent words, in falling frequency."""
    counts = count_words(
        texts, lowercase=lowercase, whole=words == "space", room=vocab_size
    )
    for mark in MARKS:
        counts.pop(mark, None)
    _check_size(vocab_size, len(MARKS) + 1)
    tokens = (*MARKS, *counts)[:vocab_size]
    tokenizer = WordVocab(padded(tokens, vocab_size), lowercase=lowercase, words=words)
    tokenizer.training = {
        "words": sum(counts.values()),
        "words_unknown": sum(itertools.islice(counts.values(), vocab_size - 3, None)),
        "unused": vocab_size - len(tokens),
    }
    return tokenizer


def _train_byte_bpe(
    texts: Iterable[str], vocab_size: int, verbatim: bool = False
) -> ByteBpe:
    """[PAD] [UNK] [CLS] [SEP] [MASK], 256 bytes, pieces.

    `verbatim`, for a decoder: 256 bytes, pieces, <|endoftext|>, as GPT-2 has them.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first, last = ((), (END_OF_DOCUMENT,)) if verbatim else (SPECIAL, ())
    _check_size(vocab_size, len(first) + len(alphabet) + len(last))
    library = Library(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(last),
        min_frequency=2,
        special_tokens=list(first),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    _learn(library, trainer, _count_byte_words(_up_to(texts, BYTES_FOR_BPE)))
    model = json.loads(library.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens = (*padded(learnt, vocab_size - len(last)), *last)
    tokenizer = ByteBpe(tokens, model["merges"])
    tokenizer.training = {"unused": len(tokens) - len(last) - len(learnt)}
    return tokenizer


def _count_byte_words(texts: Iterable[str]) -> dict[str, int]:
    """Words as byte-level BPE cuts and spells them: " the" is "Ġthe".

    The learner keeps about 100 bytes for each byte of a distinct word, and a word of
    Chinese is a whole clause: texts are read until the words have 2 MB.
    """
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words: Counter[str] = Counter()
    distinct = 0
    for text in texts:
        for run, count in Counter(byte_runs(text)).items():
            for word, _ in cut.pre_tokenize_str(run):
                if len(word) <= LONGEST_BYTE_WORD:
                    distinct += 0 if word in words else len(word)
                    words[word] += count
        if distinct > DISTINCT_FOR_BPE:
            break
    return dict(_by_count(words))


def _up_to(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Texts until they have `limit` bytes."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return


def _train_sentencepiece(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """A unigram model: [PAD] [UNK] [CLS] [SEP] [MASK], pieces, rarest last."""
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
    learnt = SentencePiece(written.getvalue()).tokens
    names = padded(learnt, vocab_size)[len(learnt) :]
    tokenizer = SentencePiece(with_unused(written.getvalue(), names))
    tokenizer.training = {"unused": len(names)}
    return tokenizer
