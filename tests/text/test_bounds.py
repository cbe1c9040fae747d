"""Whatever the text is like, memory and time are bounded."""

import json
import subprocess
import sys

import pytest

# Prints the largest resident size (kB) of the process, and what it made.
PREPARE = """
import json, sys
from jaxlm.config import BertConfig, RunConfig, TextConfig
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
kind, verbatim, _ = sys.argv[3].partition(" verbatim")
config = RunConfig(
    model=BertConfig(vocab_size=2000),
    text=TextConfig(tokenizer=kind, verbatim=bool(verbatim)),
)
manifest = prepare(
    config, [sys.argv[1]], sys.argv[2], options=ReadOptions(holdout=0.01)
)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0])
print(json.dumps([peak, manifest.tokens, manifest.sentences]))
"""


def prepared(path, directory, kind):
    """(peak memory in MB, tokens, sentences)."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(path), str(directory), kind],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak, tokens, sentences = json.loads(done.stdout)
    return peak / 1e3, tokens, sentences


def words(count):
    """Words of about 6 letters, a few thousand different ones, a full stop at times."""
    letters = "etaoinshrdlu"
    for i in range(count):
        n = i * 7919 % 4999
        word = ""
        while n:
            n, rest = divmod(n, 12)
            word += letters[rest]
        yield word + "x" + (". A" if i % 17 == 0 else "")


@pytest.mark.long
def test_a_line_of_100_mb_in_bounded_memory(tmp_path):
    # Long words, to have many bytes in little time.
    part = (" ".join(word * 12 for word in words(20_000)) + " ").encode()
    with open(tmp_path / "line.txt", "wb") as file:
        for _ in range(100_000_000 // len(part) + 1):
            file.write(part)
    peak, tokens, sentences = prepared(
        tmp_path / "line.txt", tmp_path / "corpus", "wordpiece"
    )
    assert peak < 400, peak
    assert tokens > 1_500_000 and sentences > 80_000


@pytest.mark.parametrize(
    "kind, megabytes",
    [
        ("wordpiece", 10),
        ("byte_bpe", 2),
        ("byte_bpe verbatim", 2),
        ("sentencepiece", 2),
    ],
)
def test_one_long_word_in_bounded_memory_and_time(tmp_path, kind, megabytes):
    (tmp_path / "word.txt").write_text(
        " ".join(words(20_000)) + "\n" + "abcdefghij" * (megabytes * 100_000) + "\n"
    )
    peak, tokens, _ = prepared(tmp_path / "word.txt", tmp_path / "corpus", kind)
    assert peak < 500, peak
    if kind == "wordpiece":  # each piece of 64 KiB is one [UNK]
        assert 20_000 <= tokens < 60_000


def test_a_long_line_of_a_decoder_s_in_bounded_memory(tmp_path):
    part = " ".join(words(20_000)) + " "
    record = json.dumps({"text": part * 50})
    (tmp_path / "line.jsonl").write_text(record)
    (tmp_path / "line.txt").write_text(part * 50)
    size = 2 * 50 * len(part)
    assert size > 10e6
    peak, tokens, sentences = prepared(tmp_path, tmp_path / "c", "byte_bpe verbatim")
    assert peak < 500, peak
    assert tokens > 2_000_000 and sentences == pytest.approx(size / (1 << 16), rel=0.05)


def test_words_that_never_recur_in_bounded_memory(tmp_path):
    """250,000 different words: what is remembered and counted is bounded."""
    with open(tmp_path / "words.txt", "w") as file:
        for i in range(25_000):
            file.write(" ".join(f"{(i * 10 + j) * 2654435761:x}" for j in range(10)))
            file.write(".\n" if i % 20 else ".\n\n")
    peak, tokens, _ = prepared(tmp_path / "words.txt", tmp_path / "c", "wordpiece")
    assert peak < 600, peak
    assert tokens > 250_000
