"""samples.jsonl: what the model says at each evaluation, and nothing else changes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import pretrain
from tiny import tiny

from jaxlm.checkpoints import restore_params
from jaxlm.config import ElmoConfig, GptConfig, TextConfig
from jaxlm.families import build, family_of
from jaxlm.keys import key_for
from jaxlm.open import Model, pretrained
from jaxlm.text.characters import BEGIN, END, word_characters
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.text.tokenizers.words import MARKS, WordVocab
from jaxlm.train.loop import train
from jaxlm.train.source import corpus_source
from jaxlm.train.state import abstract_params, init_params
from jaxlm.types import UserError


def samples(workdir):
    text = (workdir / "samples.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def sampled(config, corpus, workdir, prompts=()):
    source = corpus_source(config, corpus, prompts)
    return train(config, source, workdir, initial=pretrained)


@pytest.mark.long
def test_a_killed_run_has_one_entry_a_step_and_the_same_state(corpus, tmp_path):
    config = tiny(eval_every=3, save_every=4)
    whole = pretrain(config, corpus, tmp_path / "whole")
    assert [each["step"] for each in samples(tmp_path / "whole")] == [3, 6, 9, 12]
    pretrain(dataclasses.replace(config, stop=4), corpus, tmp_path / "parts")
    # As if it had been killed behind the checkpoint of step 4, while it wrote.
    with (tmp_path / "parts/samples.jsonl").open("a") as file:
        file.write('{"step": 6, "samples": []}\n{"step": 9, "sam')
    parts = pretrain(config, corpus, tmp_path / "parts")
    at_stop = [each for each in samples(tmp_path / "parts") if each["step"] != 4]
    assert at_stop == samples(tmp_path / "whole")
    off = sampled(config, corpus, tmp_path / "off", None)
    assert off.sha256 == parts.sha256 == whole.sha256
    assert not (tmp_path / "off/samples.jsonl").exists()
    shapes = abstract_params(build(config.model))
    params = restore_params(tmp_path / "whole", shapes).state
    model = Model(config, params, corpus.tokenizer, 12, tmp_path, "run")
    for each in samples(tmp_path / "whole")[-1]["samples"]:
        (words,) = each["words"]
        (guesses,) = model.fill(each["prompt"])
        assert [word for word, _ in words] == [guess.token for guess in guesses]
        found = [guess.probability for guess in guesses]
        np.testing.assert_allclose([p for _, p in words], found, atol=1e-4)


def test_prompts_are_chosen_and_checked(corpus, tmp_path):
    config = tiny(steps=2, eval_every=2)
    sampled(config, corpus, tmp_path / "own", ("The [MASK] and the [MASK].",))
    (line,) = samples(tmp_path / "own")
    assert [len(words) for words in line["samples"][0]["words"]] == [5, 5]
    for prompt, said in (("No hole", "has no [MASK]"), ("a [MASK] " * 30, "tokens")):
        with pytest.raises(UserError, match="samples") as error:
            sampled(config, corpus, tmp_path / "bad", (prompt,))
        assert said in str(error.value)


def sampler_of(config, tokenizer, prompts):
    family = family_of(config)
    module = family.build(config)
    params = init_params(module, 0)
    sampler = family.sampler(config, tokenizer, prompts)
    found = jax.device_get(jax.jit(sampler.compute)(params))
    return module, params, found, sampler.said(found)


def test_a_gpt_continues_by_fixed_keys():
    config = GptConfig(vocab_size=257, d_model=16, num_layers=2, num_heads=2, d_ff=32)
    text = TextConfig(tokenizer="byte_bpe", verbatim=True)
    tokenizer = train_tokenizer(["abcd"], text, 257)
    module, params, rows, found = sampler_of(config, tokenizer, ("ab", "abcd"))
    assert [each["prompt"] for each in found] == ["ab", "abcd"]
    begun = len(tokenizer.encode("abcd").ids)
    logits = jax.jit(module.apply)({"params": params}, jnp.array(rows[1:])).logits[0]
    for n, id in enumerate(rows[1, begun:]):
        best, at = jax.lax.top_k(logits[begun + n - 1], 40)
        assert id == at[jax.random.categorical(key_for(0, "samples", 1, n), best)]
    text, end = rows[1, begun:], tokenizer.end_of_document
    text = text[: list(text).index(end)] if end in text else text
    assert found[1]["text"] == tokenizer.decode(text)


def test_an_elmo_reads_before_and_behind_a_hole():
    filters = {"filters": (4, 4), "d_character": 4, "max_characters": 8}
    config = ElmoConfig(vocab_size=7, d_model=8, d_ff=8, num_layers=1, **filters)
    tokenizer = WordVocab([*MARKS, "a", "b", "c", "d"])
    module, params, _, found = sampler_of(
        config, tokenizer, ("a b [MASK] d", "a [MASK]")
    )
    before, behind = found[0]["words"]
    for words, row, direction, at in (
        (before, ["a", "b", "x"], 0, 2),  # what is behind does not matter
        (behind, ["x", "d"], 1, 2),
    ):
        characters = word_characters([BEGIN, *row, END], slots=8)
        characters = jnp.array(characters[None])
        logits = jax.jit(module.apply)({"params": params}, characters).logits
        scores = np.asarray(jax.nn.softmax(logits[direction, 0, at]))
        order = np.argsort(-scores)[:5]
        assert [word for word, _ in words] == [tokenizer.tokens[i] for i in order]
        np.testing.assert_allclose([p for _, p in words], scores[order], atol=1e-4)
