"""Figures of heads equal a plain count; the page is looked at in a browser."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from exported import export
from roads import mistake
from test_open import opened
from test_vectors import model

import jaxlm
from jaxlm.cli import main
from jaxlm.probe import attention
from jaxlm.probe.attention import FIGURES, Looker
from jaxlm.probe.attention_page import Looked, explorer
from jaxlm.probe.features import Reader
from jaxlm.types import Note, UserError

TEXTS = ["the cat sat on the mat , the cat", "a", "on the mat", "", "the " * 40]


def looker(family: str, longest: int = 12) -> Looker:
    module, params, tokenizer = model(family)
    return Looker(Reader(module.config, params, tokenizer), longest)


def counted(p_NHLL: np.ndarray, row: np.ndarray, sep: int) -> dict[str, list]:
    """The figures of the queries of a row, one after the other, each [N, H]."""
    found = {name: [] for name in FIGURES}
    for q in range(1, len(row)):
        p = p_NHLL[:, :, q].astype(np.float64)
        found["first"].append(p[..., 0])
        found["sep"].append(p[..., row == sep].sum(-1))
        found["itself"].append(p[..., q])
        found["previous"].append(p[..., q - 1])
        if q + 1 < len(row):
            found["next"].append(p[..., q + 1])
        safe = np.where(p > 0, p, 1)
        found["entropy"].append(-(safe * np.log(safe)).sum(-1))
        found["distance"].append((p * np.abs(np.arange(len(row)) - q)).sum(-1))
    return found


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_figures_equal_a_plain_count_over_queries(family):
    """Of texts of different lengths, empty ones and those that are cut."""
    look = looker(family)
    rows = [*look.rows(TEXTS)]
    sizes = [len(row.tokens) for row in rows]
    assert max(sizes) == 12 and min(sizes) < 4
    every: dict[str, list] = {name: [] for name in FIGURES}
    for row in rows:
        p = look.probabilities(row)
        for name, found in counted(p, row.tokens, look.sep).items():
            every[name] += found
    found = look.heads(TEXTS)
    for name, each in every.items():
        if name == "sep" and family == "gpt":
            assert np.isnan(found.figures[name]).all()
            continue
        np.testing.assert_allclose(
            found.figures[name], np.mean(each, 0), atol=2e-6, err_msg=name
        )
    assert found.tokens == sum(sizes) and found.rows == len(rows)
    alike = [1 / (q + 1 if family == "gpt" else n) for n in sizes for q in range(1, n)]
    assert found.even == pytest.approx(np.mean(alike))


def test_even_heads_have_the_even_share():
    """All keys alike: a model without queries."""
    look = looker("gpt")
    params = jax.tree.map(np.zeros_like, look.reader.params)
    look.reader = look.reader._replace(params=params)
    found = look.heads(TEXTS)
    np.testing.assert_allclose(found.figures["first"], found.even, atol=1e-6)
    assert not found.sinks.any()


def test_memory_does_not_grow_with_the_text(monkeypatch):
    """Rows are read as they are needed: a pool and no more."""
    look, read = looker("bert"), []

    def texts():
        for i in range(700):
            read.append(i)
            yield "the cat"

    seen = []
    run = attention._sums
    watched = lambda *args: seen.append(len(read)) or run(*args)  # noqa: E731
    monkeypatch.setattr(attention, "_sums", watched)
    assert look.heads(texts()).rows == 700
    assert seen[0] <= 256 and len(seen) >= 700 / 64


def test_tokens_are_spelled_as_a_reader_knows_them():
    look = looker("gpt", 99)
    text = "a 北 🎉\n\ufffd b"
    (row,) = look.rows([text])
    shown = look.spelled(row)
    assert len(shown) == len(row.tokens)
    plain = re.sub("[₁-₉]", "", "".join(dict.fromkeys(shown)))
    assert {"·", "↵", "北", "🎉", "\ufffd"} <= set(plain)
    assert "北₁" in "".join(shown) and "🎉₄" in "".join(shown)
    half, *_ = looker("gpt", 2).rows(["北"])
    assert look.spelled(half) == ["\ufffd₁", "\ufffd₂"]
    bert = looker("bert")
    (row,) = bert.rows(["the cat"])
    assert bert.spelled(row)[0] == "[CLS]" and bert.spelled(row)[-1] == "[SEP]"


@pytest.mark.oracle
def test_a_pair_is_two_segments_as_in_transformers(tmp_path):
    import torch
    import transformers

    export(tmp_path, "bert")
    loaded = jaxlm.load(tmp_path)
    look = Looker(Reader(loaded.config, loaded.params, loaded.tokenizer), 16)
    first, second = "the cat sat", "on the mat"
    (row,) = look.rows([(first, second)])
    a, b = (len(look.frame.spelled(each)[0]) for each in (first, second))
    assert row.types.tolist() == [0] * (a + 2) + [1] * (b + 1)
    theirs = transformers.BertModel.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    inputs = {"input_ids": row.tokens, "token_type_ids": row.types}
    with torch.no_grad():
        tensors = {k: torch.tensor(v[None]).long() for k, v in inputs.items()}
        want = theirs(**tensors, output_attentions=True).attentions
        tensors["token_type_ids"] *= 0
        untyped = theirs(**tensors, output_attentions=True).attentions
    want, untyped = (np.stack([np.asarray(e[0]) for e in x]) for x in (want, untyped))
    np.testing.assert_allclose(look.probabilities(row), want, atol=1e-6)
    assert np.abs(want - untyped).max() > 1e-3  # types matter
    found = look.heads([(first, second), first])
    counts = [counted(want, row.tokens, look.sep)]
    (alone,) = look.rows([first])
    counts.append(counted(look.probabilities(alone), alone.tokens, look.sep))
    for name in FIGURES:
        every = np.mean(counts[0][name] + counts[1][name], 0)
        np.testing.assert_allclose(found.figures[name], every, atol=2e-6)


def test_a_long_pair_is_cut_and_said():
    look = looker("bert")
    with pytest.warns(Note, match="the pair is cut to 12 tokens, by"):
        (row,) = look.rows([("the cat " * 20, "a mat")])
    _, second = (len(look.frame.spelled(each)[0]) for each in ("", "a mat"))
    assert len(row.tokens) == 12 and row.types.sum() == second + 1
    with pytest.raises(UserError, match="reads one text at a time, not a pair"):
        next(looker("gpt").rows([("a", "b")]))


def test_no_text_is_html():
    evil = "</script><script>alert(1)</script><!--<script>&"
    p = np.full((1, 1, 2, 2), 0.5)
    made = explorer(Looked([evil, "b"], p, [1], [1]), {})
    assert made.count("<script") == made.count("</script>") == 1
    data = made.partition("id=data>")[2].partition("</script>")[0]
    assert json.loads(data)["tokens"] == [evil, "b"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("a model") / "m"
    export(out, "bert")
    return out


def test_mistakes_are_one_line(directory, tmp_path, capsys):
    def said(*words):
        return mistake(capsys, "probe", "attention", str(directory), *words)

    for words, message in (
        (["", "--out", f"{tmp_path}/p.html"], "a text that is not empty, or --text"),
        (["  "], "a text that is not empty"),
        (["a cat", "--layer", "3"], "layer 3: there are 1 to 2"),
        (["a cat", "--head", "9"], "head 9: there are 1 to"),
        (["", "--pair", "a cat"], "--pair is the second text of two"),
        (["a cat", "--out", f"{tmp_path}/p.pdf"], "is not .html"),
        (["a cat", "--out", f"{tmp_path}/no/p.html"], "there is no directory for it"),
        (["a cat", "--steps", "all"], "keeps 0 checkpoints"),
        (["--text", f"{tmp_path}/empty.txt"], "there is no text in it"),
    ):
        (tmp_path / "empty.txt").write_text("\n\n")
        assert message in said(*words), words


def test_an_elmo_says_what_it_has_instead(tmp_path, capsys):
    opened("elmo", tmp_path)
    said = mistake(capsys, "probe", "attention", str(tmp_path / "m"), "a cat")
    assert "no attention" in said and "probe senses" in said


def test_a_decoders_single_tokens_have_no_figures():
    with pytest.raises(UserError, match="each text is one token"):
        looker("gpt").heads(["a", "b"])


@pytest.mark.probe
def test_the_page_shows_a_window_of_a_long_text(directory, tmp_path, capsys):
    page = tmp_path / "a page.html"
    words = ["the cat sat on the mat " * 1700, "--out", str(page)]
    assert main(["probe", "attention", str(directory), *words]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Pictures are of the first \d+ of [\d,]+ tokens", said)
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["tokens"] > 10_000 and found["rows"] > 100
    assert main(["probe", "attention", str(directory), "a cat", "--pair", "a mat"]) == 0
    pair = capsys.readouterr().out
    assert "1 row of at most" in pair and "most on [SEP]" in pair
    shape = np.shape(found["figures"]["first"])
    assert shape == (2, len(found["figures"]["sep"][0]))
    assert "rows of at most" in page.read_text()


ODD = "北 <i>x</i></script> של 🎉"


@pytest.fixture(scope="module")
def page_of_odd_text(tmp_path_factory):
    here = tmp_path_factory.mktemp("a page")
    export(here / "m", "gpt2")
    words = [str(here / "m"), ODD, "--out", str(here / "page.html")]
    assert main(["probe", "attention", *words]) == 0
    return here / "page.html"


def every(selector: str) -> str:
    """JavaScript for the elements of a page."""
    return f"[...document.querySelectorAll('{selector}')]"


@pytest.mark.probe
@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_the_page_in_a_browser(page_of_odd_text, browser, width, dark):
    page = browser.open(page_of_odd_text, width=width, dark=dark)
    page.check()
    shown = page.evaluate(f"{every('#from bdi')}.map(each => each.textContent)")
    assert {"<", "北₁", "🎉₄", "ש₁", "·"} <= set(shown)
    assert not page.evaluate(f"{every('#from i, #map i')}.length")

    def picked():
        return page.evaluate("document.querySelector('#from .picked')?.textContent")

    heads = "document.querySelector('#heads [aria-pressed=true]').title"
    page.evaluate("document.querySelector('#heads [tabindex=\"0\"]').focus()")
    page.press("ArrowUp", "ArrowLeft")
    assert page.evaluate(heads) == "layer 1, head 1"
    page.press("ArrowDown", "ArrowRight", "ArrowRight")
    assert page.evaluate(heads) == "layer 2, head 2"
    page.press("Tab")
    assert picked() == shown[0]
    page.press("ArrowDown", "ArrowDown")
    assert picked() == shown[2]
    lines = f"{every('#between line')}.length"
    assert 0 < page.evaluate(lines) <= 3  # a decoder: token 2 sees three
    said = page.evaluate(
        "[...document.querySelectorAll('#to small')].map(t => +t.textContent)"
    )
    assert sum(said) == pytest.approx(1, abs=0.03)
    page.press("Escape")
    assert picked() is None and page.evaluate(lines) > 3
    page.point("#from .token:nth-child(5)")
    assert picked() == shown[4]
    page.point("#cells")
    assert "→" in page.evaluate("document.querySelector('#pair').textContent")
    page.evaluate("document.querySelector('#figure').value = 'first'")
    page.evaluate(
        "document.querySelector('#figure').dispatchEvent(new Event('change'))"
    )
    assert re.search(r"first token 0\.\d\d$", page.evaluate(heads))
    page.check()
