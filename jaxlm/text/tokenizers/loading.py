"""Files → a tokenizer: jaxlm's files, Google's, OpenAI's or Hugging Face's."""

import json
from collections.abc import Sequence
from pathlib import Path

from jaxlm.files import DamagedError, read_json
from jaxlm.text.tokenizers import bpe
from jaxlm.text.tokenizers.sentencepiece import MODEL_FILE, SentencePiece
from jaxlm.text.tokenizers.tokenizer import OPTIONS_FILE, Tokenizer, read_vocabulary
from jaxlm.text.tokenizers.words import MARKS, MAX_WORD, WordPiece, WordVocab
from jaxlm.types import UserError

_CLASSES = (WordPiece, bpe.ByteBpe, SentencePiece, bpe.Gpt1Bpe, WordVocab)
_KINDS = {each.kind: each for each in _CLASSES}
# The files that a directory may have, the ones that say most first.
_FILES = (
    (OPTIONS_FILE,),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    ("vocab.txt",),
    ("tokenizer.json",),
    (MODEL_FILE,),
    ("tokenizer.model",),
)


def load_tokenizer(
    path: str | Path, *, lowercase: bool | None = None, words: str | None = None
) -> Tokenizer:
    """The tokenizer in a directory or file.

    Args:
        path: a directory that `Tokenizer.save`, Hugging Face or OpenAI wrote, a
            `vocab.txt`, a `tokenizer.json` or a SentencePiece `.model`.
        lowercase: whether a `vocab.txt` is for lower-cased text; None: look in
            `tokenizer_config.json`, else guess from the entries.
        words: how GPT-1's BPE or a vocabulary of words cuts words; None: as it was
            saved, else "basic".
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no tokenizer at {path}")
    files = [path]
    if path.is_dir():
        sets = ([path / name for name in names] for names in _FILES)
        files = next((each for each in sets if all(f.is_file() for f in each)), [])
    match files:
        case []:
            names = ", ".join(" + ".join(names) for names in _FILES[1:])
            raise UserError(f"no tokenizer in {path}: it has none of {names}")
        case vocabulary, merges:
            tokens, pairs = bpe.read_pair(vocabulary, merges)
            if any(token.endswith(bpe.WORD_END) for token in tokens):
                return bpe.Gpt1Bpe(tokens, pairs, words=words or "basic")
            return bpe.ByteBpe(tokens, pairs)
        case [file] if file.name == OPTIONS_FILE:
            return _load_ours(file, words)
        case [file] if file.suffix == ".txt":
            return _load_google(file, lowercase, words)
        case [file] if file.suffix == ".json":
            return _load_library(file)
        case [file] if file.suffix == ".model":
            return SentencePiece(file.read_bytes(), file)
    raise UserError(f"tokenizer {path} is none of .txt, .json, .model or a directory")


def _load_ours(file: Path, words: str | None) -> Tokenizer:
    options, directory = read_json(file), file.parent
    kind, digest = options.pop("kind", None), options.pop("sha256", None)
    training = options.pop("training", None)
    if kind not in _KINDS:
        raise UserError(f"{directory}: no tokenizer kind {kind!r}")
    if kind == "gpt1_bpe" and words not in (None, options["words"]):
        raise UserError(
            f"tokenizer {directory} cuts words by {options['words']!r}: pass "
            f"--text.words {options['words']}"
        )
    try:
        tokenizer = _KINDS[kind].read(directory, **options)
    except TypeError as error:
        raise DamagedError(f"{file} is not as it was saved: {error}") from None
    tokenizer.training = training
    if tokenizer.sha256 != digest:
        raise DamagedError(f"{directory} is not as it was saved: its digest differs")
    return tokenizer


def _load_google(
    path: Path, lowercase: bool | None, words: str | None
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
    """The tokenizer in a `tokenizer.json`; UserError for kinds that jaxlm lacks."""
    content = read_json(path)
    model = content.get("model") or {}
    # Old files do not name the type.
    match model.get("type") or ("BPE" if "merges" in model else "WordPiece"):
        case "WordPiece":
            rules = content.get("normalizer") or {}
            lowercase = bool(rules.get("lowercase"))
            usual = {"type": "BertNormalizer", "clean_text": True}
            usual |= {"handle_chinese_chars": True}
            if not usual.items() <= rules.items() or (
                rules.get("strip_accents") not in (None, lowercase)
            ):
                raise UserError(f"{path}: not BERT's normaliser: {json.dumps(rules)}")
            tokens = bpe.in_order_of_id(model.get("vocab") or {}, path)
            limit = model.get("max_input_chars_per_word", MAX_WORD)
            return WordPiece(tokens, lowercase=lowercase, max_word=limit)
        case "BPE":
            rules = content.get("pre_tokenizer") or {}
            if rules.get("type") != "ByteLevel" or content.get("normalizer"):
                raise UserError(f"{path}: a BPE that is not GPT-2's byte-level one")
            pairs = [p.split(" ") if isinstance(p, str) else p for p in model["merges"]]
            added = content.get("added_tokens") or ()
            ids = {each["content"]: each["id"] for each in added} | model["vocab"]
            tokens = bpe.in_order_of_id(ids, path)
            merges = bpe.checked_merges(tokens, pairs, path)
            return bpe.ByteBpe(tokens, merges, prefix_space=rules["add_prefix_space"])
        case kind:
            raise UserError(f"{path}: a model of type {kind!r}, not WordPiece or BPE")
