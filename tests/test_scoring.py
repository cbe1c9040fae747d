"""Scores of texts equal a plain loop and transformers, in every family."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import edit, export
from test_open import said
from test_vectors import model as tiny

import jaxlm
from jaxlm import scoring
from jaxlm.scoring import Scorer, Scoring
from jaxlm.text.characters import word_characters
from jaxlm.types import Note

pytestmark = pytest.mark.usefixtures("without_type_checks")
TEXTS = ["It was a truth.", "nobody acknowledged"]
PROMPTS = ["", "She was "]
LONG = " ".join(["It was a truth that nobody acknowledged."] * 4)


@pytest.fixture(scope="module", params=["bert", "modernbert", "gpt2"])
def model(request, tmp_path_factory):
    return opened(request.param, tmp_path_factory)


def opened(name, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / name
    export(out, name)
    return jaxlm.load(out)


def log_softmax(logits) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def forward(model):
    """Rows of ids → their log-probabilities, each [L, V]."""

    def run(rows: list) -> list[np.ndarray]:
        length = model.config.max_length  # rows of one length compile once
        mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
        tokens = np.zeros(mask.shape, np.int32)
        tokens[mask] = np.concatenate(rows)
        return list(log_softmax(model.forward(tokens, mask=mask).logits))

    return run


def by_a_loop(run, tokenizer, causal: bool, prompt: str, text: str) -> np.ndarray:
    """The log-probability of each token of a text, from a row of its own in a BERT."""
    ids = tokenizer.encode(prompt + text).ids.tolist()
    first = len(tokenizer.encode(prompt.rstrip()).ids)
    asked = range(first, len(ids))
    if causal:
        begin = [] if first else [tokenizer.begin_of_text]
        (log_p,) = run([begin + ids])
        return np.array([log_p[i + len(begin) - 1, ids[i]] for i in asked])
    special = tokenizer.special
    masked = [[*ids[:i], special.mask, *ids[i + 1 :]] for i in asked]
    found = run([[special.cls, *row, special.sep] for row in masked])
    return np.array([each[i + 1, ids[i]] for i, each in zip(asked, found, strict=True)])


def assert_scores(model, run):
    causal = not model.family.bidirectional
    for found, prompt, text in zip(
        model.score(TEXTS, PROMPTS), PROMPTS, TEXTS, strict=True
    ):
        want = by_a_loop(run, model.tokenizer, causal, prompt, text)
        np.testing.assert_allclose(found.log_p, want, atol=1e-4, rtol=0)
        assert found.total == pytest.approx(want.sum(), abs=1e-4)
        assert len(found.tokens) == len(want) and found.whole


def test_scores_equal_a_loop_over_forward(model):
    assert_scores(model, forward(model))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt1", "gpt2"])
def test_scores_equal_transformers(name, tmp_path_factory):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    model = opened(name, tmp_path_factory)
    causal = not model.family.bidirectional
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    theirs = kind.from_pretrained(model.files).eval()

    def run(rows):
        with torch.no_grad():
            logits = [theirs(torch.tensor([row])).logits[0].numpy() for row in rows]
        return list(map(log_softmax, logits))

    assert_scores(model, run)


def test_an_elmo_predicts_each_word_from_both_sides():
    module, params, tokenizer = tiny("elmo")
    words = ["<S>", "the", "dog", "sat", "on", "the", "mat", "</S>"]
    ids = np.array([tokenizer.id(word) or 2 for word in words])  # 2 is <UNK>
    assert ids[2] == 2 and ids[1] != 2
    slots = module.config.max_characters
    characters = jnp.asarray(word_characters(words, slots=slots)[None], jnp.int32)
    logits = jax.jit(module.apply)({"params": params}, characters).logits
    ahead, back = log_softmax(logits)[:, 0]
    at = np.arange(1, len(words) - 1)
    want = {"forward": ahead[at - 1, ids[at]], "backward": back[at + 1, ids[at]]}
    want["both"] = (want["forward"] + want["backward"]) / 2
    scorer = Scorer(module, params, tokenizer)
    for method, each in want.items():
        (found,) = scorer.score([" ".join(words[1:-1])], [""], Scoring(method))
        np.testing.assert_allclose(found.log_p, each, atol=1e-4, rtol=0)
    (behind,) = scorer.score([" dog sat on the mat"], ["the"], Scoring())
    np.testing.assert_allclose(behind.log_p, want["both"][1:], atol=1e-4, rtol=0)


def test_later_pieces_of_a_word_are_masked_too(tmp_path_factory):
    bert = opened("bert", tmp_path_factory)
    ids, word_start, *_ = bert.tokenizer.encode("It was acknowleged.")
    word, special = np.cumsum(word_start), bert.tokenizer.special
    assert (np.bincount(word) > 2).any()  # spelled wrong: a word of many pieces
    rows = []
    for i in range(len(ids)):
        masked = ids.copy()
        masked[i:][word[i:] == word[i]] = special.mask
        rows.append([special.cls, *masked, special.sep])
    want = [each[i + 1, ids[i]] for i, each in enumerate(forward(bert)(rows))]
    found = bert.score("It was acknowleged.", method="pll_word_l2r").log_p
    np.testing.assert_allclose(found, want, atol=1e-4, rtol=0)
    assert np.abs(found - bert.score("It was acknowleged.").log_p).max() > 2e-4


def test_more_texts_of_known_lengths_compile_nothing(model):
    texts = ["It was a house of truth.", *TEXTS]
    alone, among = model.score(texts), model.score(texts * 7)
    for one, other in zip(alone, among[:3], strict=True):
        np.testing.assert_allclose(one.log_p, other.log_p, atol=1e-5)
    before = scoring._log_p._cache_size()
    model.score(texts[::-1] * 6)
    assert scoring._log_p._cache_size() == before


def test_a_long_text_is_read_in_windows_and_counted(model):
    with pytest.warns(
        Note, match=r"1 of 2 texts too long for the context of \d+ tokens"
    ):
        long, short = model.score([LONG, "It was"])
    assert (long.whole, short.whole) == (False, True)
    ids = model.tokenizer.encode(LONG).ids
    length = model.config.max_length
    assert len(long.log_p) == len(ids) > length
    run = forward(model)
    if model.family.bidirectional:  # the window around each token
        special, at, width = model.tokenizer.special, len(ids) // 2, length - 2
        row = np.where(np.arange(len(ids)) == at, special.mask, ids)
        row = row[at - width // 2 :][:width]
        (log_p,) = run([np.array([special.cls, *row, special.sep])])
        assert long.log_p[at] == pytest.approx(log_p[1 + width // 2, ids[at]], abs=1e-4)
        return
    seen = np.array([model.tokenizer.begin_of_text, *ids])
    starts = [*range(0, len(ids) - length, length), len(ids) - length]
    tables = run([seen[s : s + length] for s in starts])
    want = {}
    for s, each in zip(starts[::-1], tables[::-1], strict=True):  # the first one has it
        want |= {s + i: each[i, seen[s + i + 1]] for i in range(length)}
    want = [want[i] for i in range(len(ids))]
    np.testing.assert_allclose(long.log_p, want, atol=1e-4, rtol=0)
    with pytest.warns(Note):
        closer = model.score(LONG, stride=1).log_p
    fullest = [length - 1, len(ids) - 1]  # with all the context that fits
    rows = [seen[max(0, i - length + 1) : i + 1] for i in fullest]
    want = [each[-1, ids[i]] for i, each in zip(fullest, run(rows), strict=True)]
    np.testing.assert_allclose(closer[fullest], want, atol=1e-4, rtol=0)


def test_a_long_prompt_is_truncated_on_the_left(tmp_path_factory):
    gpt = opened("gpt2", tmp_path_factory)
    prompt = "nobody was a truth " * 8
    with pytest.warns(Note, match="1 of 1 text too long"):
        found = gpt.score("that", prompt)
    ids = gpt.tokenizer.encode(prompt + "that").ids
    length = gpt.config.max_length
    (log_p,) = forward(gpt)([ids[-1 - length : -1]])
    count = len(found.log_p)
    want = log_p[np.arange(-count, 0), ids[-count:]]
    np.testing.assert_allclose(found.log_p, want, atol=1e-4, rtol=0)


def test_what_cannot_be_scored_is_named(model):
    call = type(model).score
    for wrong, message in (
        ((["It was", ""],), "texts[1] = '' has no token to score"),
        ((["", "It"], "It was"), "texts[0] = '' has no token"),
        ((["a", "b"], ["c"]), "2 texts and 1 prompt: give one prompt for all, or one"),
        ((3,), "texts"),
    ):
        assert message in said(call, model, *wrong), wrong
    other = "next" if model.family.bidirectional else "pll"
    refused = said(call, model, "It was", method=other)
    assert f"method '{other}' is not {model.family.article}'s" in refused
    assert "did you mean stride?" in said(call, model, "It was", strid=1)


def test_a_model_without_its_head_is_named(tmp_path):
    export(tmp_path / "m", "bert")
    edit(tmp_path / "m", lambda t: {k: v for k, v in t.items() if "cls.pred" not in k})
    model = jaxlm.load(tmp_path / "m")
    assert "no head of masked words" in said(type(model).score, model, "It was")
