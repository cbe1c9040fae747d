"""The playground: who may open it, what it answers, that it works with keys alone."""

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jaxlm.config import RunConfig, TextConfig, bert, gpt2
from jaxlm.families import build
from jaxlm.open import Model
from jaxlm.playground.answers import Answers, whole_words
from jaxlm.playground.page import playground
from jaxlm.playground.server import Server
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params
from jaxlm.types import UserError

TEXTS = ["the cat sat on the mat", "the bank of the river is a bank", "שלום 北京 学"]
SHAPE = {"num_layers": 2, "num_heads": 2, "d_model": 8, "d_ff": 12, "max_length": 32}
SETTINGS = {"max_tokens": 4, "temperature": 0.8, "top_k": 9, "top_p": 1.0, "seed": 3}


def model(family):
    if family == "bert":
        config = bert("tiny", vocab_size=90, **SHAPE)
        text = TextConfig()
    else:
        config = gpt2("tiny", vocab_size=300, **SHAPE)
        text = TextConfig(tokenizer="byte_bpe", verbatim=True)
    tokenizer = train_tokenizer(TEXTS, text, config.vocab_size)
    run = RunConfig(model=config, length=16, predictions=3)
    params = init_params(build(config), 0)
    return Model(run, params, tokenizer, 5, Path("none"), "none")


@contextmanager
def served(family):
    answers = Answers(model(family))
    page = playground(answers, "a run")
    with Server("127.0.0.1", 0, page, answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def status(url, data=None, **headers):
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request) as found:
            return found.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def asked(server, kind, **said):
    request = urllib.request.Request(server.url + kind, json.dumps(said).encode())
    with urllib.request.urlopen(request) as found:
        return [json.loads(line) for line in found]


def test_others_are_refused():
    with served("bert") as server:
        port = server.server_address[1]
        own, bare = server.url, f"http://127.0.0.1:{port}/"
        assert status(own) == 200 and status(own + "fill", b'{"text": "x"}') == 200
        assert status(own, Host=f"localhost:{port}") == 200
        for url in (bare, bare + "wrong/", own + "fill", own[:-1], own + "../etc"):
            assert status(url) == 403, url
        assert status(bare + "wrong/fill", b"{}") == 403
        assert status(own, Host=f"evil.example:{port}") == 403
        assert status(own + "fill", b"{}", Origin="http://evil.example") == 403
        assert status(own + "generate", b"{}") == 403  # a BERT's page has no such tab
        assert status(own + "fill", b"[") == 400
        assert status(own + "fill", b"0", **{"Content-Length": "2000000"}) == 413
        with pytest.raises(UserError, match=f"port {port} is in use: --port 0"):
            Server("127.0.0.1", port, "", server.answers)


def test_answers_are_those_of_the_model():
    with served("bert") as server:
        loaded = server.answers.model
        (record,) = asked(server, "fill", text="the [MASK] sat")
        for guess in loaded.fill("the [MASK] sat", 10)[0]:
            assert f"<td>{guess.probability:.1%}</td>" in record["html"]
        (bad,) = asked(server, "fill", text="no hole")
        assert "no [MASK]" in bad["error"]
        words, note = asked(server, "words", text="the cat sat", word="cat")
        assert words["html"].count("<tr>") == 4 and "vocabulary" in note["note"]
        (bad,) = asked(server, "words", text="the cat sat", word="dog")
        assert "does not occur" in bad["error"]
        lines = "the bank of a river\n\nis a bank"
        (drawn,) = asked(server, "attention", text="the cat sat")
        assert "roots" in drawn["page"]
        senses, _ = asked(server, "senses", text=lines, word="bank")
        kind = {"layers": "all", "pooling": "none"}
        both = loaded.embed(["the bank of a river", "is a bank"], **kind)
        before, bank = (len(loaded.tokenize(each)) for each in ("the", "bank"))
        one, two = both[0][:, before : before + bank], both[1][:, -bank:]
        one, two = one.mean(1), two.mean(1)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        for cosine in (one * two).sum(1) / norms:
            assert f"<small>{cosine:.2f}</small>" in senses["html"]


def test_a_text_is_streamed_with_its_log_probabilities():
    with served("gpt") as server:
        said = {name: str(value) for name, value in SETTINGS.items()}
        *pieces, last = asked(server, "generate", text="the cat", **said)
        found = server.answers.model.generate("the cat", scored=True, **SETTINGS)[0]
        pieces = [each["text"] for each in pieces if "text" in each]
        assert "".join(pieces) == found.text
        for score in found.scores:
            assert f"<td>{score:.2f}</td>" in last["html"]
        (bad,) = asked(server, "generate", text="the", **{**said, "top_k": "many"})
        assert "top_k = 'many' is not a number" in bad["error"]


def test_whole_words_are_no_pieces():
    for family in ("bert", "gpt"):
        found = whole_words(model(family).tokenizer, 10)
        assert "the" in found and not any(each.startswith("##") for each in found)


@pytest.mark.browser
def test_keys_are_enough(browser):
    with served("bert") as server:
        for width, dark in ((400, True), (1400, False)):
            page = browser.open(server.url, width=width, dark=dark)
            page.check()
            page.evaluate("document.querySelector('[role=tab]').focus()")
            page.press("ArrowLeft")  # round to the last
            assert page.evaluate("document.activeElement.id") == "tab-attention"
            page.press("Home", "Tab")
            page.evaluate("document.activeElement.value = 'שלום [MASK] 北京'")
            assert page.evaluate("document.activeElement.matches(':dir(rtl)')")
            page.evaluate("""document.forms[0].requestSubmit(); new Promise(done => {
              const out = document.querySelector('#fill .out');
              const look = () => out.querySelector('table') ? done() :
                setTimeout(look, 20);
              look();
            })""")
            page.evaluate("document.querySelector('[data-word]').focus()")
            page.press("Enter")
            assert "[MASK]" not in page.evaluate("document.forms[0].text.value")
            assert not page.errors and page.colours() > 8
            assert {*page.requests} == {server.url + "fill"}
