"""Text to make a corpus of, and what a corpus holds."""

from pathlib import Path

import numpy as np

from jaxlm.config import BertConfig, RunConfig
from jaxlm.text.recipe import ReadOptions

VOCABULARY = 600
CONFIG = RunConfig(model=BertConfig(vocab_size=VOCABULARY))
HELD_OUT = ReadOptions(holdout=0.2)


def novel(chapters, seed=0):
    """Text of `chapters` documents of paragraphs of sentences."""
    rng = np.random.default_rng(seed)
    words = [
        "".join(rng.choice(list("aeioubcdfghlmnprst"), rng.integers(1, 9)))
        for _ in range(400)
    ]
    out = []
    for _ in range(chapters):
        for _ in range(rng.integers(1, 6)):
            sentences = [
                " ".join(rng.choice(words, rng.integers(3, 12))).capitalize() + "."
                for _ in range(rng.integers(1, 5))
            ]
            out.append(" ".join(sentences))
        out.append("")
    return "\n".join(out) + "\n"


def contents(directory):
    """Relative path → bytes of all files."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file()
    }


def everything(corpus):
    """All tokens and marks, as one row."""
    tokens, marks = corpus.read(np.array([0]), corpus.num_tokens)
    return tokens[0], marks[0]
