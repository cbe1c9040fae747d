"""Directories of tokenizers as other people publish them, and texts to try them on."""

import json
import random

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from jaxlm.config import TextConfig
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.text.tokenizers.tokenizer import OPTIONS_FILE

SENTENCES = [
    "Ich möchte über das Café reden, naïve Leute!",
    "The CAT sat on the mat's edge; 12345 cats, 3.14 dogs.",
    "北京是中国的首都，the capital. 東京　カタカナ 한국어",
    "مرحبا بالعالم covid-19 Covid COVID",
]
NASTY = [
    *SENTENCES,
    "e\u0301 \u1e69 ﬁ İı ß ΟΔΟΣ \u00ad\u200b\ufeff x\u0000y\u0007z",
    "  two  spaces\t\n\nand\r\nlines \u00a0\u3000\u2028 end ",
    "👩\u200d👩\u200d👧 🇫🇷 😀😀",
    "a<e1>b <e1> COVID covid19 [E] [e] x[E]y <|user|>hi<|user|>",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "x" * 201,
    "",
    " ",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def nasties(count=150, seed=5):
    """Random strings over an alphabet of what tokenizers treat in their own ways."""
    alphabet = [
        *"aeExX 0,.'[]<>_",
        "é",
        "e\u0301",
        "ü",
        "北",
        "ア",
        "م",
        "\u00a0",
        "\u3000",
    ]
    alphabet += ["\n", "\t", "\r", "\x00", "\u200b", "\ufeff", "😀", "\u0301", "İ", "ß"]
    alphabet += ["<e1>", "[E]", "covid", "the", "##", " the", "  ", "[MASK]", "▁"]
    chance = random.Random(seed)
    return [
        "".join(chance.choices(alphabet, k=chance.randrange(12))) for _ in range(count)
    ]


def vocabulary():
    """A BERT's, with both cases, accents and ideographs."""
    letters = sorted(
        {c for text in (*SENTENCES, "xyzéE[]<>_") for c in text} - {" ", "\u3000"}
    )
    pieces = ["the", "cat", "##at", "über", "uber", "möchte", "mochte", "Café", "cafe"]
    return [*WORDS, *letters, *(f"##{each}" for each in letters), *pieces]


def bert(directory, config=None, tokens=None, **files):
    """A directory with a vocab.txt and what stands beside it."""
    directory.mkdir(exist_ok=True)
    lines = "".join(f"{token}\n" for token in tokens or vocabulary())
    (directory / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
    (directory / "config.json").write_text('{"model_type": "bert"}')
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def gpt(directory, config=None, **files):
    """A directory with a vocab.json and merges.txt."""
    text = TextConfig(tokenizer="byte_bpe", verbatim=True)
    train_tokenizer(SENTENCES * 3, text, 400).save(directory)
    for name in (OPTIONS_FILE, "tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    ids = json.loads((directory / "vocab.json").read_text())
    shuffled = dict(sorted(ids.items()))  # ids out of order
    (directory / "vocab.json").write_text(json.dumps(shuffled))
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def added(content, id=None, **flags):
    """An added token as files have it."""
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    usual |= {"content": content, "normalized": True, **flags}
    return usual if id is None else {"id": id, **usual}


END = "<|endoftext|>"
COUNT = len(vocabulary())


def equal_ids(theirs, ours, texts, **options):
    """Both find the same ids, where special tokens count."""
    for text in texts:
        want = theirs(text, add_special_tokens=False, **options)["input_ids"]
        assert ours.encode(text, specials=True).ids.tolist() == want, ascii(text)


def bert_json(**rules):
    library = Library(
        models.WordPiece({t: i for i, t in enumerate(vocabulary())}, unk_token="[UNK]")
    )
    library.normalizer = normalizers.BertNormalizer(**rules)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(WORDS)
    return library


def byte_pieces(*, prefix=False, regex=True):
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(prefix, use_regex=regex)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    library.train_from_iterator(SENTENCES * 3, trainer)
    return library
