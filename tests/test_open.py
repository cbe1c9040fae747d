"""What a user may call from Python: each argument is checked, in one line."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from exported import export, same
from roads import mistake
from test_vectors import model as tiny

import jaxlm
from jaxlm.cli import main
from jaxlm.config import elmo
from jaxlm.config.vectors import VectorOptions
from jaxlm.convert.elmo import from_params
from jaxlm.convert.model_directory import export_model
from jaxlm.generate.sampling import Sampling
from jaxlm.types import Note, UserError
from jaxlm.vectors import Embedded

pytestmark = pytest.mark.usefixtures("without_type_checks")
TEXT = "It was a truth."
ROW = [[2, 7, 8, 3]]


@pytest.fixture(scope="module", params=["bert", "gpt2", "elmo"])
def model(request, tmp_path_factory):
    return opened(request.param, tmp_path_factory.mktemp("model"))


def opened(name: str, out: Path):
    if name != "elmo":
        export(out / "m", name)
        return jaxlm.load(out / "m")
    module, params, tokenizer = tiny("elmo")
    source = from_params(module.config, params)
    export_model(out / "m", source, tokenizer, origin={"test": name})
    return jaxlm.load(out / "m")


def said(call, *args, **named) -> str:
    """The one line in which a call is refused."""
    with pytest.raises(UserError) as error:
        call(*args, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_string_is_one_text(model):
    text = "the cat sat on the mat"
    two = model.embed([text, "a cat"])
    np.testing.assert_allclose(model.embed(text), two[0], atol=1e-6)
    assert model.embed(np.str_(text), layers="all").shape == (3, two.shape[1])
    for several in ((text,), iter([text]), np.array([text]), {text: 0}.keys()):
        np.testing.assert_allclose(model.embed(several)[0], two[0], atol=1e-6)
    (each,) = model.embed([text], pooling="none")
    np.testing.assert_array_equal(model.embed(text, pooling="none"), each)


def test_a_prompt_is_one_prompt(tmp_path):
    gpt = opened("gpt2", tmp_path)
    greedy = {"temperature": 0, "max_tokens": np.int64(3)}
    (one,) = gpt.generate(TEXT, **greedy)
    assert one.text == gpt.generate([TEXT], **greedy)[0].text
    (whole,) = gpt.generate(TEXT, stop=f"{one.text[0]}, never", **greedy)
    assert whole.text == one.text


def test_what_is_no_text_is_named(model):
    call = type(model).embed
    for wrong, message in (
        (b"text", 'texts is of type bytes, not str: decode them, .decode("utf-8")'),
        ([TEXT, b"b"], "texts[1] is of type bytes"),
        (Path("a.txt"), "not str: read the file"),
        (None, "of type NoneType"),
        ([None], "texts[0] is of type NoneType"),
        (3, "of type int"),
        ({"a": 1}, "of type dict"),
        ([["a"]], "texts[0] is of type list"),
        ([], "nothing to embed"),
        ("a \ud800", r"half a character, '\ud800', at 2"),
    ):
        assert message in said(call, model, wrong), wrong


def test_texts_and_their_ids_are_read_alike(model):
    texts = [TEXT, "She was out of the house."]
    rows = model.encode(np.array(texts, object))
    assert rows.tokens.shape[:2] == rows.mask.shape and not rows.mask.all()
    both = model.forward(texts).hidden
    for i, text in enumerate(texts):
        ids = model.encode(text)
        np.testing.assert_array_equal(ids, rows.tokens[i, : len(ids)])
        alone = model.forward(ids).hidden
        np.testing.assert_array_equal(alone, model.forward(text).hidden)
        np.testing.assert_allclose(both[:, i, : len(ids)], alone[:, 0], atol=1e-5)
    for empty in ([], np.array([], str)):
        assert "nothing to encode" in said(type(model).encode, model, empty)


def test_ids_are_decoded(model):
    texts = ["the cat sat on", "on the mat"]
    rows, family = model.encode(texts), model.family
    begin, end = ("[CLS] ", " [SEP]") if family.has_cls else ("", "")
    if family.stateful:
        begin, end = "<S> ", " </S>"
    else:
        texts = [text.replace("mat", "house") for text in texts]
        rows = model.encode(texts)
    assert model.decode(rows) == [f"{begin}{text}{end}" for text in texts]
    assert model.decode(rows.tokens[0][rows.mask[0]].tolist()).strip(" []CLSEP</>")
    wrong = "ids: shape [1, 2], not [L" if not family.stateful else "ids: shape [1, 2]"
    assert wrong in said(type(model).decode, model, [[1, 2]])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_transformers_encodes_and_reads_texts_alike(name, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    mine, texts = opened(name, tmp_path), [TEXT, "She was out of the house, [MASK]."]
    mine.save(tmp_path / "saved")
    library = AutoTokenizer.from_pretrained(tmp_path / "saved")
    library.pad_token = library.pad_token or library.convert_ids_to_tokens(0)
    theirs = library(texts, padding=True, return_tensors="pt")
    rows = mine.encode(texts)
    np.testing.assert_array_equal(rows.tokens, theirs.input_ids)
    np.testing.assert_array_equal(rows.mask, theirs.attention_mask)
    assert mine.tokenize(texts[1]) == library.tokenize(texts[1])
    with_states = AutoModel.from_pretrained(tmp_path / "saved")(
        **theirs, output_hidden_states=True
    )
    for layer, want in enumerate(with_states.hidden_states):
        got = mine.forward(texts).hidden[layer]
        np.testing.assert_allclose(got[rows.mask], want.detach()[rows.mask], atol=1e-5)


def test_a_model_in_half_precision_is_near(model):
    half = jaxlm.load(model.directory, device="cpu:0", dtype="bfloat16")
    assert f"in bfloat16; {model.directory}>" in repr(half)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    one, other = (np.array(m.forward(TEXT).hidden, np.float32) for m in (model, half))
    assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()
    one, other = model.embed(TEXT), half.embed(TEXT)
    assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()
    wrong = said(jaxlm.load, model.directory, dtype="float61")
    assert "did you mean float16?" in wrong
    assert "'cpu:9': there are cpu:0" in said(
        jaxlm.load, model.directory, device="cpu:9"
    )


def test_a_saved_model_is_the_same_model(model, tmp_path):
    model.save(tmp_path / "saved")
    again = jaxlm.load(tmp_path / "saved")
    same(again.params, model.params)
    assert again.tokenizer.tokens == model.tokenizer.tokens
    assert "is the directory that is read" in said(again.save, tmp_path / "saved")


def test_options_of_vectors_are_checked(model):
    call = type(model).embed
    for wrong, message in (
        ({"layers": "lst"}, "layers = 'lst' is not 'last', 'all', 'mix' or a whole"),
        ({"layers": "lst"}, "did you mean last?"),
        ({"layers": 3}, "layer 3: there are 0 (embedding) to 2"),
        ({"layers": 1.0}, "layers = 1.0 is not"),
        ({"layers": True}, "layers = True is not"),
        ({"pooling": "meen"}, "did you mean mean?"),
        ({"pooling": None}, "pooling = None is not 'none', 'mean', 'cls'"),
        ({"pool": "mean"}, "no argument 'pool': did you mean pooling?"),
        ({"batch": 0}, "batch = 0 is not in [1, 65536]"),
        ({"batch": "8"}, "batch = '8' is not a whole number"),
        ({"stateful": 1}, "stateful = 1 is not True or False"),
        ({"options": "mean"}, "'mean' is not a VectorOptions: name what differs"),
    ):
        assert message in said(call, model, TEXT, **wrong), wrong
    assert VectorOptions(layers=np.int64(1), batch=np.int32(2)) == (
        VectorOptions(layers=1, batch=2)
    )


def test_arrays_are_checked(model):
    call, config = type(model).forward, model.config
    row: object = np.array(ROW)
    if model.family.name == "elmo":
        row = np.full((1, 4, config.max_characters), 261)
        row[:, :, 0], row[:, :, 1] = 259, 260
    assert model.forward(row, mask=[[1, 1, 1, 0]]).hidden.shape[1:3] == (1, 4)
    for wrong, message in (
        ([3, TEXT], "model.encode(text)"),
        ([TEXT, 3], "texts[1] is of type int"),
        ([[1, 2], [3]], "tokens: no array; pad all rows"),
        (3, "tokens: shape [], not [B, L"),
        (np.array(row) + 0.5, "tokens: float64, not whole numbers"),
        (None, "tokens: object"),
        (np.array(row) - 300, "ids run from"),
        (np.array(row) + 10_000, "ids run from"),
        (np.zeros((0, 4), int), "tokens: shape [0, 4], not"),
    ):
        assert message in said(call, model, wrong), wrong
    for mask, message in (
        ([[1, 1]], "mask: shape [1, 2], not [1, 4]"),
        ([[0.0, 0, -1e4, 0]], "mask: float64"),
        ([[0, 0, 2, 0]], "mask: ids run from 0 to 2"),
        ([[0, 0, 0, 0]], "mask: all are padding"),
    ):
        assert message in said(call, model, row, mask=mask), mask
    if model.family.token_types:
        wrong = {"token_types": [[0, 0, 0, 2]]}
        assert "token_types: ids run from 0 to 2" in said(call, model, row, **wrong)
    else:
        assert "no token types" in said(call, model, row, token_types=[[0, 0, 0, 0]])


def test_attention_is_given_when_asked_for(model):
    call, config = type(model).forward, model.config
    if model.family.name == "elmo":
        row = np.full((1, 4, config.max_characters), 261)
        row[:, :, 0], row[:, :, 1] = 259, 260
        assert "no attention, it reads word" in said(call, model, row, attention=True)
        return
    row, mask = np.array(ROW * 2), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert model.forward(row, mask=mask).attention is None
    found = np.asarray(model.forward(row, mask=mask, attention=True).attention)
    assert found.shape == (config.num_layers, 2, config.num_heads, 4, 4)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    assert not found[:, 1, :, :3, 3].any()


def test_an_elmo_pads_behind(tmp_path):
    model = opened("elmo", tmp_path)
    row = np.full((1, 3, model.config.max_characters), 261)
    row[:, :, 0], row[:, :, 1] = 259, 260
    assert "padding before a word" in said(
        type(model).forward, model, row, mask=[[0, 1, 1]]
    )


def test_blanks_are_checked(model):
    call = type(model).fill
    if not model.family.fills:
        assert "fills no blanks: jaxlm" in said(call, model, "a [MASK]")
        return
    for wrong in ({"top_k": 0}, {"top_k": -1}, {"top_k": "5"}, {"top_k": 10**9}):
        assert "is not in [1, 150]" in said(call, model, "a [MASK]", **wrong)
    assert "no [MASK] in" in said(call, model, TEXT)
    assert "text is of type list" in said(call, model, ["a [MASK]"])
    assert "40 positions: shorten" in said(call, model, "a [MASK] " * 40)
    assert len(model.fill("a [MASK]", top_k=np.int64(3))[0]) == 3


def test_prompts_and_settings_are_checked(model):
    call = type(model).generate
    if model.family.bidirectional:
        assert "continues no text: jaxlm" in said(call, model, TEXT)
        return
    for prompts, message in (
        ([], "nothing to generate"),
        (b"a", "prompts is of type bytes"),
        ([TEXT, 3], "prompts[1] is of type int"),
        (None, "of type NoneType"),
    ):
        assert message in said(call, model, prompts)
    for wrong, message in (
        ({"top_k": 2.5}, "top_k = 2.5 is not a whole number"),
        ({"top_k": -1}, "top_k = -1 must be at least 0"),
        ({"top_p": 0}, "top_p = 0.0 is not in (0, 1]"),
        ({"top_p": float("nan")}, "top_p = nan is not a finite number"),
        ({"temperature": "hot"}, "temperature = 'hot' is not a finite number"),
        ({"temperature": 1e-40}, "too small: take 0"),
        ({"temprature": 1.0}, "did you mean temperature?"),
        ({"top_p_rule": "HF"}, "'hf', 'openai'"),
        ({"max_tokens": 0}, "max_tokens = 0 must be at least 1"),
        ({"max_tokens": 40}, "max_tokens = 40 is not in [1, 39]"),
        ({"samples": 10**9}, "samples = 1000000000 is not in"),
        ({"seed": -1}, "seed = -1 is not in"),
        ({"stop": [""]}, "stop has an empty string"),
        ({"stop": [3]}, "stop = [3] is not a list, each a string"),
        ({"beams": -1}, "beams = -1"),
        ({"beams": 2, "top_k": 5}, "top_k = 5: a search with beams draws nothing"),
        ({"scored": "yes"}, "scored is True or False"),
        ({"stream": "yes"}, "stream a function"),
        ({"sampling": {"top_k": 1}}, "is not a Sampling: name what differs"),
    ):
        assert message in said(call, model, TEXT, **wrong), wrong
    assert hash(Sampling(stop=["a"])) == hash(Sampling(stop=("a",)))


def test_directories_are_checked(tmp_path):
    (tmp_path / "file").write_text("")
    for wrong, message in (
        (None, "None is not the path"),
        (3, "3 is not the path"),
        ("", "'' is not the path"),
        (b"m", "b'm' is not the path"),
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / "file", "is a file: name its directory"),
        (tmp_path, "is not a run directory"),
    ):
        assert message in said(jaxlm.load, wrong)


def test_text_of_unknown_words_is_said(tmp_path):
    chinese = "哈尔滨是黑龙江的省会"
    bert = opened("bert", tmp_path)
    with pytest.warns(Note, match=r"100% of 10 tokens are \[UNK\]"):
        bert.embed([chinese])
    with pytest.warns(Note, match=r"100% of 10 tokens are \[UNK\]"):
        bert.fill(chinese + "[MASK]")
    bert.embed([TEXT, chinese[:2]])  # most of it is known


def test_elmos_count_words_outside_their_vocabulary(tmp_path):
    with pytest.warns(Note, match="100% of 3 tokens are <UNK>"):
        opened("elmo", tmp_path).embed("der Hund schläft")


@pytest.mark.parametrize("sizes", [{"num_layers": 10**9}, {"d_model": 10**9}])
def test_sizes_that_no_model_has_are_refused(sizes):
    with pytest.raises(UserError, match="1000000000 is not in"):
        elmo("tiny", **sizes)


def embed(capsys, *words: str) -> str:
    """The one line in which `jaxlm embed` is refused."""
    return mistake(capsys, "embed", *words)


def test_embed_names_the_remedy_for_a_sentence(tmp_path, capsys):
    said = embed(capsys, "m", "--text", "A bank.", "--out", str(tmp_path / "v.h5"))
    assert (
        "'A bank.' is not a file" in said
        and "| jaxlm embed … --text /dev/stdin" in said
    )


def test_embed_reads_a_pipe(tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    vectors = Embedded(("a",), np.zeros(3))
    model = SimpleNamespace(embed_each=lambda texts, _: (vectors for _ in texts))
    monkeypatch.setattr(jaxlm, "load", lambda _: model)
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["a\nb\n"])
    writer.start()
    words = "--text", str(tmp_path / "pipe"), "--out", str(tmp_path / "v.npz")
    assert main(["embed", "m", *words]) == 0
    writer.join()
    assert "2 lines" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["v.h5", "v.npz"])
def test_embed_writes_a_file_whole_or_not_at_all(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "t.txt").write_text("a\nb\n")
    vectors = Embedded(("a",), np.zeros(9999))
    model = SimpleNamespace(embed_each=lambda texts, _: (vectors for _ in texts))
    monkeypatch.setattr(jaxlm, "load", lambda _: model)
    # Python would keep modules that are cut off.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    words = "m", "--text", str(tmp_path / "t.txt"), "--out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        said = embed(capsys, *words, str(tmp_path / name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{name} cannot be written: File too large" in said
    (tmp_path / f"d{name}").mkdir()
    assert "is a directory: name a file" in embed(
        capsys, *words, str(tmp_path / f"d{name}")
    )
    assert "t.txt: File exists" in embed(capsys, *words, str(tmp_path / "t.txt" / name))
    assert {each.name for each in tmp_path.iterdir()} == {"t.txt", f"d{name}"}
    assert main(["embed", *words, str(tmp_path / name)]) == 0
