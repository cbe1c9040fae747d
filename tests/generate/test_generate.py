"""Generation: a prompt among others as alone, and as transformers continues it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.generate.beam import beam_search
from jaxlm.generate.choose import Choice, choose, nucleus
from jaxlm.generate.decode import decode, prefill
from jaxlm.generate.sampling import Sampling
from jaxlm.models.gpt import Gpt
from jaxlm.types import UserError
from tools import goldens_gpt as goldens

CONFIG = goldens.gpt2("tiny", **{**goldens.SHAPE, "max_length": 40})
END = 7


@pytest.fixture(scope="module")
def model():
    params = goldens.random_params(CONFIG)
    return Gpt(CONFIG), params


@pytest.fixture(scope="module")
def prompts():
    return [goldens.random_tokens(CONFIG, 1, n, seed=n)[0] for n in (1, 5, 12)]


def continued(model, prompts, **changes):
    module, params = model
    end = changes.pop("end", None)
    sampling = changes.pop("sampling", Sampling(temperature=0.0))
    sampling = dataclasses.replace(sampling, **{"max_tokens": 9} | changes)
    found = decode(module, params, prompts, sampling, end=end)
    return [each.tokens.tolist() for each in found]


def test_greedy_is_the_argmax_of_the_whole_row_each_time(model, prompts):
    module, params = model
    apply = jax.jit(module.apply)
    for prompt, found in zip(prompts, continued(model, prompts), strict=True):
        row = np.zeros(32, np.int32)
        row[: len(prompt)] = prompt
        for i, token in enumerate(found):
            n = len(prompt) + i
            logits = apply({"params": params}, jnp.asarray(row)[None]).logits
            assert int(logits[0, n - 1].argmax()) == token
            row[n] = token


SAMPLED = Sampling(temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.3)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED])
def test_a_prompt_among_others_gives_what_it_gives_alone(model, prompts, sampling):
    kind = {"sampling": sampling, "samples": 2, "seed": 3, "end": END}
    together = continued(model, prompts, **kind)
    alone = [row for prompt in prompts for row in continued(model, [prompt], **kind)]
    assert together == alone


def test_the_seed_and_the_sample_name_the_text(model, prompts):
    kind = {"sampling": SAMPLED, "samples": 2}
    first = continued(model, prompts, seed=1, **kind)
    assert first == continued(model, prompts, seed=1, **kind)
    assert first != continued(model, prompts, seed=2, **kind)
    assert first[0] != first[1]


def test_log_probabilities_are_those_of_the_whole_row(model, prompts):
    module, params = model
    sampling = dataclasses.replace(SAMPLED, max_tokens=6)
    found = decode(module, params, prompts, sampling, scored=True)
    for prompt, each in zip(prompts, found, strict=True):
        row = np.concatenate([prompt, each.tokens])
        logits = module.apply({"params": params}, jnp.asarray(row, jnp.int32)[None])
        log_p = np.asarray(jax.nn.log_softmax(logits.logits[0]))
        at = np.arange(len(prompt) - 1, len(row) - 1)
        np.testing.assert_allclose(each.scores, log_p[at, each.tokens], atol=1e-5)


def test_every_token_runs_the_same_program(model):
    """One more token costs the same wherever it stands: all shapes are fixed."""
    module, params = model
    state = jax.eval_shape(
        lambda: prefill(module, params, [np.zeros(3, np.int32)], max_tokens=9)
    )
    assert state.caches[0].k.shape == (1, 48, CONFIG.num_heads, 8)
    assert state.tokens.shape == (1, 32)


def sorted_rule(scores, k, p, rule):
    """Top-k and top-p by sorting, as both references write them; no equal scores."""
    order = np.argsort(-scores)
    keep = np.zeros(len(scores), bool)
    order = order[:k] if k else order
    shares = np.exp(scores[order] - scores[order].max())
    shares /= shares.sum()
    sums = np.cumsum(shares)
    count = np.sum(sums - shares < p) if rule == "hf" else max(1, np.sum(sums <= p))
    keep[order[:count]] = True
    return keep


@pytest.mark.parametrize("rule", ["hf", "openai"])
@pytest.mark.parametrize("k", [0, 1, 5, 400])
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.93])
def test_what_is_kept_is_what_sorting_would_keep(rule, k, p):
    random = np.random.RandomState(int(100 * p) + k)
    scores = random.standard_normal((3, 500)).astype(np.float32) * 3
    if k:
        falling, tokens = jax.lax.top_k(jnp.asarray(scores), k)
        mine = np.zeros(scores.shape, bool)
        np.put_along_axis(mine, np.asarray(tokens), nucleus(falling, p, rule), axis=1)
    else:
        mine = np.asarray(nucleus(jnp.asarray(scores), p, rule))
    want = np.stack([sorted_rule(row.astype(np.float64), k, p, rule) for row in scores])
    np.testing.assert_array_equal(mine, want)


def test_ties_with_the_kth_are_kept():
    logits = jnp.array([[3.0, 1.0, 2.0, 2.0, -jnp.inf, 2.0]])
    keys = jax.random.split(jax.random.key(0), 300)
    for k, want in ((2, {0, 2, 3, 5}), (1, {0}), (5, {0, 1, 2, 3, 5})):
        choice = Choice.of(Sampling(top_k=k))
        drawn = choose(jnp.tile(logits, (300, 1)), keys, choice)
        assert set(np.asarray(drawn).tolist()) == want


@pytest.mark.parametrize(
    "sampling, want",
    [
        (Sampling(), [0.15, 0.1, 0.5, 0.25]),
        (Sampling(top_k=3), [0.15, 0, 0.5, 0.25]),
        (Sampling(top_k=3, top_p=0.6), [0, 0, 0.5, 0.25]),
        (Sampling(top_p=0.6), [0, 0, 0.5, 0.25]),
        (Sampling(top_k=3, top_p=0.6, top_p_rule="openai"), [0, 0, 1, 0]),
        (Sampling(temperature=0.5), [0.15**2, 0.1**2, 0.5**2, 0.25**2]),
    ],
)
def test_draws_follow_the_shares(sampling, want):
    logits = jnp.log(jnp.array([0.15, 0.1, 0.5, 0.25]))
    rows = 4000
    keys = jax.random.split(jax.random.key(0), rows)
    drawn = choose(jnp.tile(logits, (rows, 1)), keys, Choice.of(sampling))
    counts = np.bincount(np.asarray(drawn), minlength=4)
    share = np.array(want) / np.sum(want)
    deviation = np.sqrt(rows * share * (1 - share))
    assert (np.abs(counts - rows * share) <= 4.5 * deviation).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"temperature": -0.1},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"samples": 0},
        {"samples": 3, "beams": 2},
        {"seed": 2**32},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_one_program_serves_all_seeds_and_numbers(model, prompts, caplog):
    def texts(**changes) -> list:
        return continued(model, prompts, sampling=SAMPLED, **changes)

    def searched(penalty: float) -> list:
        sampling = Sampling(max_tokens=9, beams=3, length_penalty=penalty)
        return beam_search(*model, prompts, sampling)

    first = texts(), searched(1.0)
    with jax.log_compiles():
        others = [texts(seed=2**32 - 1), texts(temperature=9.0), texts(top_p=0.01)]
        others += [texts(repetition_penalty=99.0), texts(max_tokens=8, stop=("a",))]
        searched(0.5)
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]
    assert all(each != first[0] for each in others) and texts() == first[0]
    with jax.log_compiles():
        texts(top_k=4)
    assert [r for r in caplog.records if "Compiling" in r.getMessage()]


def theirs(prompt, end, **settings):
    torch = pytest.importorskip("torch")
    model = goldens.to_transformers(CONFIG, goldens.random_params(CONFIG)).eval()
    pad = CONFIG.vocab_size - 1
    found = model.generate(
        torch.tensor(prompt)[None],
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    rows = [row[len(prompt) :].tolist() for row in found.sequences]
    if end is not None:
        rows = [row[: row.index(end)] if end in row else row for row in rows]
    return rows, found


@pytest.mark.oracle
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_equals_transformers(model, prompts, penalty):
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    mine = continued(model, prompts, sampling=sampling, end=END)
    for prompt, row in zip(prompts, mine, strict=True):
        assert theirs(prompt, END, repetition_penalty=penalty)[0] == [row]


@pytest.mark.oracle
@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("length_penalty", [1.0, 0.3])
def test_beam_search_equals_transformers(model, prompts, end, length_penalty):
    module, params = model
    sampling = Sampling(max_tokens=9, beams=3, length_penalty=length_penalty)
    found = beam_search(module, params, prompts, sampling, end=end)
    for prompt, beams in zip(prompts, found, strict=True):
        rows, output = theirs(
            prompt,
            end,
            num_beams=3,
            num_return_sequences=3,
            length_penalty=length_penalty,
        )
        assert [beam.tokens.tolist() for beam in beams] == rows
        scores = np.concatenate([beam.scores for beam in beams])
        np.testing.assert_allclose(scores, output.sequences_scores, atol=1e-5)
