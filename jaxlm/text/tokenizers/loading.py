"""Files → a tokenizer: jaxlm's files, Google's, OpenAI's or Hugging Face's."""

from pathlib import Path

from jaxlm.files import DamagedError, not_downloaded, read_json
from jaxlm.text.tokenizers import bpe, published
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.text.tokenizers.sentencepiece import MODEL_FILE, SentencePiece
from jaxlm.text.tokenizers.tokenizer import (
    LIBRARY_FILE,
    OPTIONS_FILE,
    Tokenizer,
    read_vocabulary,
)
from jaxlm.text.tokenizers.words import MARKS, WordPiece, WordVocab
from jaxlm.types import UserError

_CLASSES = (WordPiece, bpe.ByteBpe, SentencePiece, bpe.Gpt1Bpe, WordVocab)
_CLASSES += (LibraryTokenizer,)
_KINDS = {each.kind: each for each in _CLASSES}
# The files that a directory may have, the ones that say most first.
_FILES = (
    (OPTIONS_FILE,),
    (LIBRARY_FILE,),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    ("vocab.txt",),
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
        raise UserError(f"no tokenizer at {path}{not_downloaded(path)}")
    files = [path]
    if path.is_dir():
        # What spaCy cuts, the library cannot.
        left = (LIBRARY_FILE,) if words == "spacy" else ()
        sets = ([path / name for name in names] for names in _FILES if names != left)
        files = next((each for each in sets if all(f.is_file() for f in each)), [])
    match files:
        case []:
            names = ", ".join(" + ".join(names) for names in _FILES[1:])
            raise UserError(f"no tokenizer in {path}: it has none of {names}")
        case vocabulary, merges:
            return published.from_pair(vocabulary, merges, words)
        case [file] if file.name == OPTIONS_FILE:
            return _load_ours(file, words)
        case [file] if file.suffix == ".txt":
            if read_vocabulary(file)[: len(MARKS)] != MARKS:
                alone = path == file
                return published.from_vocabulary(file, lowercase, alone=alone)
            # ELMo's; its case is that of the text that it was counted in.
            tokens, lowercase = read_vocabulary(file), bool(lowercase)
            return WordVocab(tokens, lowercase=lowercase, words=words or "basic")
        case [file] if file.suffix == ".json":
            return published.from_tokenizer_json(file)
        case [file] if file.suffix == ".model":
            return published.from_sentencepiece(file)
    raise UserError(f"tokenizer {path} is none of .txt, .json, .model or a directory")


def _load_ours(file: Path, words: str | None) -> Tokenizer:
    options, directory = read_json(file), file.parent
    kind, digest = options.pop("kind", None), options.pop("sha256", None)
    training = options.pop("training", None)
    if kind not in [*_KINDS]:
        raise UserError(f"{directory}: no tokenizer kind {kind!r}")
    if kind == "gpt1_bpe" and words not in (None, options["words"]):
        flag = f"--text.words {options['words']}"
        raise UserError(f"tokenizer {directory} was made with {flag}: pass it")
    try:
        tokenizer = _KINDS[kind].read(directory, **options)
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{file} is not as it was saved: {error}") from None
    tokenizer.training = training
    if tokenizer.sha256 != digest:
        raise DamagedError(f"{directory} is not as it was saved: its digest differs")
    return tokenizer
