"""A directory as transformers saves it → a tokenizer that gives the same ids.

A tokenizer.json is run as it is. From other files, and what stands beside them, the
tokenizer is built as transformers builds it; a plain one is jaxlm's own.

    tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json

Every key of these is checked, see `config/published.py`.
"""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Library

from jaxlm.config.published import check
from jaxlm.files import read_json
from jaxlm.text.sources import read_file
from jaxlm.text.tokenizers import bpe
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.text.tokenizers.sentencepiece import SentencePiece
from jaxlm.text.tokenizers.tokenizer import (
    END_OF_DOCUMENT,
    LIBRARY_FILE,
    SPECIAL,
    Tokenizer,
    read_vocabulary,
    with_frame,
)
from jaxlm.text.tokenizers.words import MAX_WORD, MAX_WORD_HF, WordPiece, bert_library
from jaxlm.types import UserError, note

# In the order in which transformers adds those that a vocabulary lacks.
_ROLES = {
    "bos_token": "begin",
    "eos_token": "end",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_LIST = ("additional_special_tokens", "extra_special_tokens")
# The classes of transformers that read a kind of file, without "Fast".
_BERTS = "BertTokenizer ErnieTokenizer ElectraTokenizer DistilBertTokenizer"
_JIEBA = "RoFormerTokenizer"
_GPTS = "GPT2Tokenizer OpenAIGPTTokenizer"
_OF_HF = ("config.json", "tokenizer_config.json")
# The class that transformers takes where no file names one, by model_type.
_OF_MODEL = dict.fromkeys(("bert", "ernie"), "BertTokenizer")
_OF_MODEL |= {"gpt2": "GPT2Tokenizer", "openai-gpt": "OpenAIGPTTokenizer"}
_PLAIN = ("", "PreTrainedTokenizer", "TokenizersBackend")  # classes without own rules
# What a class has in place of these parts of a tokenizer.json, since transformers 5.
_BERT_CUTS = {
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}
_OWN_RULES: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(
        _BERTS.split(),
        _BERT_CUTS
        | {
            "model": {
                "type": "WordPiece",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": MAX_WORD_HF,
            }
        },
    ),
    "GPT2Tokenizer": {
        "normalizer": {},
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": True},
        "model": {
            "type": "BPE",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "byte_fallback": False,
            "ignore_merges": False,
        },
    },
    "OpenAIGPTTokenizer": _BERT_CUTS
    | {"model": {"type": "BPE", "end_of_word_suffix": bpe.WORD_END}},
}


@dataclass
class Described:
    """What the files beside a vocabulary say of the tokenizer."""

    directory: Path
    options: dict[str, Any]  # of tokenizer_config.json and special_tokens_map.json
    added: dict[int, dict[str, Any]]  # by id
    model_type: Any = None  # of config.json

    @property
    def kind(self) -> str:
        """transformers' class, without "Fast"; "" where none is named."""
        return str(self.options.get("tokenizer_class") or "").removesuffix("Fast")

    @property
    def special(self) -> dict[str, dict[str, Any]]:
        """The special tokens: those with a role, and those of a list."""
        named = {key: self.options.get(key) for key in _ROLES}
        for key in _LIST:
            found = self.options.get(key) or []
            every = found.values() if isinstance(found, dict) else found
            named |= {f"{key} {i}": token for i, token in enumerate(every)}
        return {key: _token(token, True) for key, token in named.items() if token}

    @property
    def names(self) -> dict[str, str]:
        """`Tokenizer.names`; a token that begins or ends texts has no other role."""
        named = {_ROLES.get(k): token["content"] for k, token in self.special.items()}
        end = named.get("end", END_OF_DOCUMENT)
        usual = {role: {role} for role in SPECIAL}
        usual |= {"end": {END_OF_DOCUMENT}, "begin": {end}}
        for role in ("[PAD]", "[UNK]"):
            usual[role] |= {END_OF_DOCUMENT, end, named.get("begin", end)}
        return {r: named[r] for r in usual if r in named and named[r] not in usual[r]}

    @property
    def tokens(self) -> list[str]:
        """All added and special tokens."""
        every = (*self.added.values(), *self.special.values())
        return [token["content"] for token in every]

    def check_class(self, file: Path, known: str) -> None:
        """Refuse a class of transformers that reads the file by other rules."""
        if self.kind not in ("", "PreTrainedTokenizer", *known.split()):
            this = f"tokenizer_class = {self.kind} is not supported for {file.name}"
            remedy = "save a tokenizer.json with transformers, it is run as it is"
            raise UserError(f"{self.directory}: {this}: {remedy}")


def described(directory: Path) -> Described:
    """What the files of a directory say of its tokenizer."""
    options: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        # As in transformers, the first file may say all.
        if "added_tokens_decoder" not in options:
            check(directory / name, content := _read(directory / name))
            options |= content
    said = _read(directory / "config.json")
    usual = _JIEBA if said.get("model_type") == "roformer" else None
    options.setdefault("tokenizer_class", said.get("tokenizer_class") or usual)
    found = Described(directory, options, {}, said.get("model_type"))
    if found.kind == _JIEBA:  # a tokenizer.json saved by it does not say so
        this = f"{directory}: {_JIEBA} cuts Chinese by jieba, which jaxlm does not"
        raise UserError(f"{this}: pass another one by --tokenizer")
    more = _read(directory / "added_tokens.json").items()
    try:
        special = {token["content"] for token in found.special.values()}
        every = options.get("added_tokens_decoder")
        if every is None:
            every = {id: _token(token, token in special) for token, id in more}
        for id, token in every.items():
            flags = found.added[int(id)] = _token(token)
            AddedToken(**flags)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{directory}: added tokens cannot be read: {error}") from None
    return found


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _token(said: Any, special: bool = False) -> dict[str, Any]:
    """The flags of an added token, of which a file gives the content or everything."""
    flags = {"content": said} if isinstance(said, str) else dict(said)
    special = bool(flags.get("special", special))
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    usual |= {"normalized": not special, "special": special}
    return usual | {k: flags[k] for k in ("content", *usual) if k in flags}


def with_added(text: str, by: Described) -> str:
    """A tokenizer.json with the tokens that the files beside it add."""
    content = json.loads(text)
    have = [_token(token) for token in content.get("added_tokens") or ()]
    vocabulary = content["model"]["vocab"]
    if not isinstance(vocabulary, dict):  # pieces with scores
        vocabulary = [piece for piece, _ in vocabulary]
    added = [by.added[id] for id in sorted(by.added)]
    known = {*vocabulary, *(token["content"] for token in (*have, *added))}
    fresh = [token for token in added if token not in have]
    fresh += [t for t in by.special.values() if t["content"] not in known]
    if not fresh:
        return text
    library = Library.from_str(text)
    library.add_tokens([AddedToken(**token) for token in fresh])
    for id, token in by.added.items():
        if (found := library.token_to_id(token["content"])) != id:
            this = f"the added token {token['content']!r} has id {id}"
            raise UserError(f"{by.directory}: {this}, by its place it has {found}")
    return library.to_str(pretty=True)


def from_tokenizer_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json."""
    by, content = described(path.parent), read_json(path)
    model = content.get("model") or {}
    values = {**content, "model.dropout": model.get("dropout")}
    check(path, values, LIBRARY_FILE)
    _check_contradictions(path, content, by)
    return _with(read_file(str(path)), by)


def _check_contradictions(path: Path, content: dict, by: Described) -> None:
    """Refuse a rule on which two files disagree.

    A note names a rule that transformers' class would override.
    """
    normalizer, cutter = (
        content.get(part) or {} for part in ("normalizer", "pre_tokenizer")
    )
    lower, strip = normalizer.get("lowercase"), normalizer.get("strip_accents")
    rules: list[tuple[str, Any, Any]] = []  # key, here, in the class
    if normalizer.get("type") == "BertNormalizer" and by.kind in ("", *_BERTS.split()):
        chinese = normalizer.get("handle_chinese_chars")
        rules = [
            ("do_lower_case", lower, True),
            ("strip_accents", lower if strip is None else strip, lower),
            ("tokenize_chinese_chars", chinese, True),
        ]
    if cutter.get("type") == "ByteLevel" and by.kind in ("", *_GPTS.split()):
        rules.append(("add_prefix_space", cutter.get("add_prefix_space"), False))
    kind = by.kind or _OF_MODEL.get(str(by.model_type), "")
    for key, here, usual in rules:
        if (said := by.options.get(key)) not in (None, here):
            both = f"{json.dumps(here)} here and {json.dumps(said)}"
            there = "in tokenizer_config.json: edit one of them"
            raise UserError(f"{path}: {key} is {both} {there}")
        if said is None and here != usual and kind:
            this = f"{path.name}: {key} is {json.dumps(here)}, which jaxlm follows"
            theirs = f"transformers' {kind} has {json.dumps(usual)}"
            note(f"{this}; {theirs} unless tokenizer_config.json says the same")
    own = [part for part in _OWN_RULES.get(kind, ()) if not _alike(kind, part, content)]
    if own or kind not in (*_PLAIN, *_OWN_RULES):
        this = f"{path.name}: jaxlm follows its {' and '.join(own) or 'rules'}"
        has = "has" if own else "may have"
        note(f"{this}; transformers' {kind} {has} its own (import --verify compares)")


def _alike(kind: str, part: str, content: dict) -> bool:
    """Whether a part of a tokenizer.json is what transformers' class has."""
    usual, here = _OWN_RULES[kind][part], content.get(part) or {}
    pairs = (
        (here.get(key, value) or type(value)(), value) for key, value in usual.items()
    )
    return bool(usual) == bool(here) and all(a == b for a, b in pairs)


def from_vocabulary(path: Path, lowercase: bool | None, *, alone: bool) -> Tokenizer:
    """The tokenizer of a BERT's vocab.txt; `alone`: by Google's rules."""
    tokens, by = read_vocabulary(path), described(path.parent)
    by.check_class(path, _BERTS)
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        this = f"{path} begins with a byte order mark, left out here"
        note(f"{this}; transformers takes it for a part of {tokens[0]}")
    said, cased = by.options.get("do_lower_case"), looks_cased(tokens)
    wrong = f"do_lower_case is {json.dumps(said)} in tokenizer_config.json"
    if said is None:
        said, wrong = not (cased or lowercase is False), "has entries with capitals"
        if cased and lowercase is None:
            theirs = "transformers lower-cases it unless do_lower_case is false"
            note(f"{path} {wrong}: text keeps its case; {theirs}")
    if lowercase not in (None, said):
        said = str(said).lower()
        raise UserError(f"vocabulary {path} {wrong}: pass --text.lowercase {said}")
    strip, names = by.options.get("strip_accents"), by.names
    chinese = by.options.get("tokenize_chinese_chars") is not False
    if strip in (None, said) and chinese and not names and {*by.tokens} <= {*SPECIAL}:
        hf = not alone and any((path.parent / name).is_file() for name in _OF_HF)
        longest = MAX_WORD_HF if hf else MAX_WORD
        return WordPiece(tokens, lowercase=said, max_word=longest)
    ids = {token: i for i, token in enumerate(tokens)}
    unknown, cls, sep = (names.get(role, role) for role in ("[UNK]", "[CLS]", "[SEP]"))
    if unknown not in ids:
        raise UserError(f"vocabulary {path} has no entry {unknown}")
    library = bert_library(
        models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=MAX_WORD_HF),
        lowercase=said,
        strip_accents=strip,
        handle_chinese_chars=chinese,
    )
    library.add_special_tokens([token for token in SPECIAL if token in ids])
    framed = {cls, sep} <= ids.keys()
    text = with_frame(library, cls, sep) if framed else library.to_str(pretty=True)
    return _with(text, by)


def looks_cased(tokens: Sequence[str]) -> bool:
    """Whether more than 1 % of a vocabulary's entries have a capital letter."""
    plain = [token for token in tokens if token[:1] not in ("[", "<")]
    return sum(token != token.lower() for token in plain) > 0.01 * len(plain)


def from_pair(vocabulary: Path, merges: Path, words: str | None) -> Tokenizer:
    """The tokenizer of a GPT's vocabulary and merges."""
    tokens, pairs = bpe.read_pair(vocabulary, merges)
    by = described(vocabulary.parent)
    by.check_class(vocabulary, _GPTS)
    if any(token.endswith(bpe.WORD_END) for token in tokens):
        return as_described(bpe.Gpt1Bpe(tokens, pairs, words=words or "basic"), by)
    prefix = bool(by.options.get("add_prefix_space"))
    return as_described(bpe.ByteBpe(tokens, pairs, prefix_space=prefix), by)


def from_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece model."""
    by = described(path.parent)
    by.check_class(path, "")
    if by.options.get("do_lower_case"):
        raise UserError(f"{path}: do_lower_case = true is not supported beside it")
    return as_described(SentencePiece(path.read_bytes(), path), by)


def as_described(own: Tokenizer, by: Described) -> Tokenizer:
    """`own`, or the library's tokenizer if `by` adds tokens or changes their roles."""
    usual = {*SPECIAL, END_OF_DOCUMENT} & {*own.tokens}
    if not by.names and {*by.tokens} <= usual:
        return own
    if not (text := own.library_text()):
        raise UserError(f"{by.directory}: no token can be added to {own.kind}")
    return _with(text, by)


def _with(text: str, by: Described) -> LibraryTokenizer:
    found = LibraryTokenizer(text, names=by.names, path=by.directory / LIBRARY_FILE)
    full = with_added(text, by)
    return found if full == text else LibraryTokenizer(full, names=by.names)


def renamed(tokenizer: Tokenizer, names: dict[str, str]) -> Tokenizer:
    """The same tokenizer with other names of special tokens (`Tokenizer.names`)."""
    if not (text := tokenizer.library_text()):
        raise UserError(
            f"{', '.join(names.values())}: {tokenizer.kind} has its own end"
        )
    names = {**tokenizer.names, **names}
    return LibraryTokenizer(text, names=names, size=tokenizer.vocab_size)
