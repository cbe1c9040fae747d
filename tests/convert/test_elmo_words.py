"""ELMo's words are cut as the user of the text did, if that is asked for."""

import numpy as np
import pytest
from exported import export, random_params

import jaxlm
from jaxlm.cli import main
from jaxlm.config import elmo
from jaxlm.convert.elmo import from_params
from jaxlm.convert.model_directory import export_model
from jaxlm.text.tokenizers.words import MARKS, WordVocab
from jaxlm.types import UserError

TEXT = "don't U.S.-based ( ca n't )"
CUT = {"space": TEXT.split(), "basic": ["don", "'", "t", "U", ".", "S", ".", "-"]}


@pytest.fixture
def released(tmp_path):
    """options.json and weights.hdf5 alone."""
    small = {"d_model": 4, "d_ff": 6, "filters": (2, 3), "max_characters": 8}
    config = elmo("tiny", vocab_size=0, **small)
    source = from_params(config, random_params(config))
    out = tmp_path / "released"
    export_model(out, source, WordVocab(MARKS), origin={})
    for name in ("vocab.txt", "jaxlm_tokenizer.json", "jaxlm_export.json"):
        (out / name).unlink(missing_ok=True)
    return out


def cut(directory, **options):
    each = next(jaxlm.load(directory).embed_each([TEXT], options_of(**options)))
    return list(each.tokens)


def options_of(**options):
    from jaxlm.config.vectors import VectorOptions

    return VectorOptions(pooling="none", **options)


@pytest.mark.parametrize("words", ["space", "basic"])
def test_words_are_cut_as_import_or_embed_says(words, released, tmp_path, capsys):
    out = tmp_path / "in"
    flags = ["--words", words]
    assert main(["import", str(released), "--out", str(out), *flags]) == 0
    assert cut(out)[: len(CUT[words])] == CUT[words]
    assert cut(released, words=words) == cut(out)
    for other, want in CUT.items():
        assert cut(out, words=other)[: len(want)] == want
    (tmp_path / "t.txt").write_text(TEXT)
    where = ["--text", f"{tmp_path}/t.txt", "--out", f"{tmp_path}/x.npz"]
    assert main(["embed", str(released), *where, *flags]) == 0
    assert np.load(tmp_path / "x.npz")["tokens/0"].tolist() == cut(out)


@pytest.mark.parametrize("entries", [("the", "cat"), ("<UNK>", "<S>", "the"), MARKS])
def test_a_vocabulary_beside_options_is_a_list_of_words(entries, released, tmp_path):
    (released / "vocab.txt").write_text("\n".join(entries) + "\n")
    out = tmp_path / "in"
    assert main(["import", str(released), "--out", str(out)]) == 0
    words = [each for each in entries if each not in MARKS]
    assert jaxlm.load(out).tokenizer.tokens == (*MARKS, *words)
    assert jaxlm.load(released).tokenizer.tokens == (*MARKS, *words)


def test_a_list_that_is_not_there_is_named(released, tmp_path, capsys):
    words = [str(released), "--out", f"{tmp_path}/in", "--tokenizer", f"{tmp_path}/no"]
    assert main(["import", *words]) == 2
    assert f"{tmp_path}/no has no list of words" in capsys.readouterr().err


def test_other_models_cut_no_words(tmp_path, capsys):
    export(tmp_path / "bert", "bert")
    with pytest.raises(UserError, match="words = space is for an ELMo"):
        cut(tmp_path / "bert", words="space")
    words = [str(tmp_path / "bert"), "--out", str(tmp_path / "in"), "--words", "space"]
    assert main(["import", *words]) == 2
    assert "words = space is for an ELMo" in capsys.readouterr().err
