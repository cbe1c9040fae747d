"""A small pretrained model that is none: random, with a vocabulary of its own."""

import string

import pytest
from reviews import BAD, GOOD, REST, reviews, write_tsv

from jaxlm.config import TextConfig, bert
from jaxlm.convert.model_directory import export_model, from_params
from jaxlm.families import build
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    words = [*GOOD, *BAD, *REST, *string.ascii_lowercase]
    texts = [" ".join(words)] * 20
    tokenizer = train_tokenizer(texts, TextConfig(), 200)
    config = bert(
        "tiny",
        vocab_size=200,
        num_heads=2,
        d_model=32,
        d_ff=64,
        max_length=64,
        init_std=0.1,
    )
    source = from_params(config, init_params(build(config), 0))
    out = tmp_path_factory.mktemp("model") / "bert"
    export_model(out, source, tokenizer, origin={})
    return str(out)


@pytest.fixture(scope="session")
def sst2(tmp_path_factory):
    """A directory as GLUE's."""
    here = tmp_path_factory.mktemp("data") / "SST-2"
    write_tsv(here / "train.tsv", ("sentence", "label"), reviews(200, 1))
    write_tsv(here / "dev.tsv", ("sentence", "label"), reviews(60, 2))
    return str(here)
