"""Ids of GPT-1's and GPT-2's own vocabularies, against transformers, live and stored.

tests/goldens/gpt_ids.json has what transformers 5.23 gives for those lines.
"""

import json
import zipfile
from pathlib import Path

import pytest
from reference.multilingual import LINES, ODD

from jaxlm.text.tokenizers import load_tokenizer

GOLDEN = Path(__file__).resolve().parent.parent / "goldens/gpt_ids.json"
FILES = {
    "gpt1": ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    "gpt2": ("encoder.json", "vocab.bpe"),
}


def stored(name):
    return zip((*LINES, *ODD), json.loads(GOLDEN.read_text())[name], strict=True)


def languages(shared):
    """The beginning of the Universal Declaration in some 400 languages."""
    with zipfile.ZipFile(shared / "nltk_corpora/udhr2.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".txt"):
                yield archive.read(name)[:400].decode("utf-8", "ignore")


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_ids_are_the_stored_ones(shared, name):
    tokenizer = load_tokenizer(shared / "vocabs" / name)
    for text, ids in stored(name):
        assert tokenizer.encode(text).ids.tolist() == ids, text
        if name == "gpt2":
            assert tokenizer.decode(ids) == text


@pytest.mark.shared
@pytest.mark.oracle
@pytest.mark.parametrize("name", FILES)
def test_transformers_gives_the_same(shared, tmp_path, name):
    from transformers import AutoTokenizer, GPT2Tokenizer, OpenAIGPTTokenizer

    folder = shared / "vocabs" / name
    vocabulary, merges = ((folder / file).read_text("utf-8") for file in FILES[name])
    theirs = {"gpt1": OpenAIGPTTokenizer, "gpt2": GPT2Tokenizer}[name](
        vocab=json.loads(vocabulary),
        merges=[tuple(line.split()) for line in merges.split("\n")[1:-1]],
    )
    ours = load_tokenizer(folder)
    ours.save(tmp_path)
    read_back = AutoTokenizer.from_pretrained(tmp_path)
    for text, ids in (*stored(name), *((text, None) for text in languages(shared))):
        for each in (theirs, read_back):
            got = each(text, split_special_tokens=True)["input_ids"]
            assert got == ours.encode(text).ids.tolist(), text
            assert ids in (None, got)
        assert theirs.decode(got) == ours.decode(got)
