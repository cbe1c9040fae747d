"""The one record of how text is read: what decides a corpus and what does not."""

import dataclasses

import pytest

from jaxlm.config import BertConfig, RunConfig, TextConfig
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.types import UserError

CONFIG = RunConfig(model=BertConfig(vocab_size=600), seed=3, smoothing=0.5)


def changed(**fields):
    before = Recipe(**{"languages": ("en", "zh"), **fields.pop("before", {})})
    return dataclasses.replace(before, **fields).difference(before)


def test_a_recipe_holds_the_config_and_the_options():
    options = ReadOptions(holdout=0.1, spans="rjieba")
    config = dataclasses.replace(CONFIG, text=TextConfig(lowercase=False))
    recipe = Recipe.of(config, options, languages=("zh",))
    assert (recipe.lowercase, recipe.holdout, recipe.spans) == (False, 0.1, "rjieba")
    assert (recipe.seed, recipe.smoothing, recipe.vocab_size) == (3, 0.5, 600)
    assert recipe.languages == ("zh",) and recipe.marks_spans
    assert Recipe.stored(dataclasses.asdict(recipe)) == recipe


@pytest.mark.parametrize(
    "name, value, idle",
    [
        ("sentences", "lines", {}),
        ("holdout", 0.5, {}),
        ("chinese", "simplified", {}),
        ("dialogues", True, {}),
        ("spans", "rjieba", {}),
        ("lexicon_sha256", "abc", {}),
        ("seed", 1, {"given": "abc"}),
        ("vocab_size", 9, {"given": "abc"}),
        ("lowercase", False, {"given": "abc"}),
        ("smoothing", 0.5, {"languages": ("en",)}),
        ("words", "space", {"tokenizer": "wordpiece"}),
    ],
)
def test_what_decides_a_corpus_is_compared(name, value, idle):
    before = {"tokenizer": "words"} if name == "words" else {}
    assert changed(before=before, **{name: value}).startswith(f"{name} is {value!r}")
    if idle:
        assert changed(before=idle, **{name: value}) is None


def test_what_decides_nothing_is_not():
    assert changed(errors="replace", lexicon="moved.txt", unused=3) is None
    assert changed(before={"given": "abc", "holdout": 0.1}, seed=1) is not None
    assert changed(given="abc").startswith("tokenizer is 'abc', was ''")


def test_a_share_is_a_share():
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="holdout"):
            ReadOptions(holdout=share)
