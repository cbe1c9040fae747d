"""Files → a tokenizer, whoever wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path

from jaxlm.text.json_files import read_json
from jaxlm.text.tokenizers.bpe import checked_merges, in_order_of_id, read_pair
from jaxlm.text.tokenizers.byte_bpe import ByteBpe
from jaxlm.text.tokenizers.gpt1_bpe import WORD_END, Gpt1Bpe
from jaxlm.text.tokenizers.sentencepiece import MODEL_FILE, SentencePiece, read_model
from jaxlm.text.tokenizers.tokenizer import (
    OPTIONS_FILE,
    Tokenizer,
    WordRule,
    read_vocabulary,
)
from jaxlm.text.tokenizers.word_vocab import MARKS, WordVocab
from jaxlm.text.tokenizers.wordpiece import MAX_WORD, WordPiece
from jaxlm.types import UserError

_KINDS = {
    each.kind: each for each in (WordPiece, ByteBpe, SentencePiece, Gpt1Bpe, WordVocab)
}
_PAIRS = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
)


def load_tokenizer(
    path: str | Path, *, lowercase: bool | None = None, words: WordRule | None = None
) -> Tokenizer:
    """The tokenizer in a directory or file.

    Args:
        path: a directory that `Tokenizer.save` or Hugging Face wrote, a `vocab.txt`, a
            `tokenizer.json`, a SentencePiece `.model`, or a directory with `vocab.json`
            and `merges.txt` (OpenAI: `encoder.json` and `vocab.bpe`; GPT-1:
            `encoder_bpe_40000.json` and `vocab_40000.bpe`).
        lowercase: for a `vocab.txt`, which does not say; None: as its
            `tokenizer_config.json` says, else as its entries suggest.
        words: how GPT-1's BPE and a vocabulary of words cut them; None: as it was
            saved, else "basic".

    Raises:
        UserError: there is none, or its files are damaged or of an unknown kind.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no tokenizer at {path}")
    if path.is_dir():
        if (path / OPTIONS_FILE).is_file():
            return _load_ours(path, words)
        for vocabulary, merges in _PAIRS:
            if (path / vocabulary).is_file() and (path / merges).is_file():
                tokens, pairs = read_pair(path / vocabulary, path / merges)
                if any(token.endswith(WORD_END) for token in tokens):
                    return Gpt1Bpe(tokens, pairs, words=words or "basic")
                return ByteBpe(tokens, pairs)
        names = ("vocab.txt", "tokenizer.json", MODEL_FILE, "tokenizer.model")
        file = next((path / name for name in names if (path / name).is_file()), None)
        if file is None:
            raise UserError(
                f"no tokenizer in {path}: it has none of vocab.txt, tokenizer.json, "
                "vocab.json + merges.txt, encoder.json + vocab.bpe, "
                "encoder_bpe_40000.json + vocab_40000.bpe, spiece.model"
            )
        path = file
    match path.suffix:
        case ".txt":
            return _load_google(path, lowercase, words)
        case ".json":
            return _load_library(path)
        case ".model":
            return read_model(path)
    raise UserError(f"tokenizer {path} is none of .txt, .json, .model or a directory")


def _load_ours(directory: Path, words: WordRule | None) -> Tokenizer:
    options = read_json(directory / OPTIONS_FILE)
    kind, digest = options.pop("kind", None), options.pop("sha256", None)
    training = options.pop("training", None)
    if kind not in _KINDS:
        raise UserError(f"{directory}: no tokenizer kind {kind!r}")
    if kind == "gpt1_bpe" and words not in (None, options["words"]):
        raise UserError(
            f"tokenizer {directory} cuts words by {options['words']!r}: pass "
            f"--text.words {options['words']}"
        )
    tokenizer = _KINDS[kind].read(directory, **options)
    tokenizer.training = training
    if tokenizer.sha256 != digest:
        raise UserError(f"{directory} is not as it was saved: its digest differs")
    return tokenizer


def _load_google(
    path: Path, lowercase: bool | None, words: WordRule | None
) -> WordPiece | WordVocab:
    tokens = read_vocabulary(path)
    if tokens[: len(MARKS)] == MARKS:
        # ELMo's; its case is that of the text that it was counted in.
        return WordVocab(tokens, lowercase=bool(lowercase), words=words or "basic")
    config = path.parent / "tokenizer_config.json"
    if lowercase is None and config.is_file():
        lowercase = read_json(config).get("do_lower_case")
    cased = looks_cased(tokens)
    if lowercase is None:
        lowercase = not cased
    if lowercase == cased:
        raise UserError(
            f"vocabulary {path} has {'' if cased else 'no '}entries with capitals: "
            f"pass --text.lowercase {str(not cased).lower()}"
        )
    return WordPiece(tokens, lowercase=lowercase)


def looks_cased(tokens: Sequence[str]) -> bool:
    """Whether more than 1 % of a vocabulary's entries have a capital letter."""
    plain = [token for token in tokens if token[:1] not in ("[", "<")]
    return sum(token != token.lower() for token in plain) > 0.01 * len(plain)


def _load_library(path: Path) -> Tokenizer:
    """A `tokenizer.json` of a kind that we have, too."""
    content = read_json(path)
    model = content.get("model") or {}
    # Old files do not name the type.
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind == "WordPiece":
        rules = content.get("normalizer") or {}
        usual = {"type": "BertNormalizer", "clean_text": True}
        usual |= {"handle_chinese_chars": True}
        lowercase = bool(rules.get("lowercase"))
        if any(rules.get(name) != value for name, value in usual.items()) or (
            rules.get("strip_accents") not in (None, lowercase)
        ):
            raise UserError(f"{path}: not BERT's normaliser: {json.dumps(rules)}")
        tokens = in_order_of_id(model.get("vocab") or {}, path)
        limit = model.get("max_input_chars_per_word", MAX_WORD)
        return WordPiece(tokens, lowercase=lowercase, max_word=limit)
    if kind == "BPE":
        rules = content.get("pre_tokenizer") or {}
        if rules.get("type") != "ByteLevel" or content.get("normalizer"):
            raise UserError(f"{path}: a BPE that is not GPT-2's byte-level one")
        pairs = [p.split(" ") if isinstance(p, str) else p for p in model["merges"]]
        ids = dict(model["vocab"])
        for token in content.get("added_tokens") or ():
            ids.setdefault(token["content"], token["id"])
        tokens = in_order_of_id(ids, path)
        merges = checked_merges(tokens, pairs, path)
        return ByteBpe(tokens, merges, prefix_space=rules["add_prefix_space"])
    raise UserError(f"{path} has a model of type {kind!r}, not WordPiece or BPE")
