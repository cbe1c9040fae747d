"""`import --verify` is on the side of the source, not of what was written."""

import dataclasses
import json

import numpy as np
import pytest
from exported import CONFIGS, GPT1, export, openai, random_params, tokenizer_of
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.cli import main
from jaxlm.config import elmo
from jaxlm.convert import huggingface
from jaxlm.convert.elmo import from_params
from jaxlm.convert.model_directory import export_model, import_model
from jaxlm.convert.verify import verify_import
from jaxlm.text.tokenizers.words import MARKS, WordPiece, WordVocab

pytestmark = pytest.mark.oracle
OURS = ("jaxlm_tokenizer.json",)


def source(directory, name, *lacks):
    """A directory as others publish it: without our files, and without some more."""
    export(directory, name)
    for each in (*OURS, *lacks):
        (directory / each).unlink()
    return directory


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "name, lacks, flags",
    [
        ("bert", ("tokenizer.json",), ("--dtype", "bfloat16")),
        ("gpt2", ("tokenizer.json", "tokenizer_config.json"), ()),
    ],
)
def test_a_source_without_a_tokenizer_json_is_compared(name, lacks, flags, tmp_path):
    here = source(tmp_path / "source", name, *lacks)
    if name == "bert":
        edit(here / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    words = [str(here), "--out", str(tmp_path / "in"), "--verify", *flags]
    assert main(["import", *words]) == 0


@pytest.mark.parametrize("lacks", [("tokenizer.json",), ()])
def test_a_gpt_with_words_of_a_bert_is_compared_without_a_frame(
    lacks, tmp_path, capsys
):
    """Chinese GPT-2s have a BertTokenizer; a text that is continued has no frame."""
    here, config = tmp_path / "source", CONFIGS["gpt2"]
    config = dataclasses.replace(config, vocab_size=150)
    model = huggingface.from_params(config, random_params(config))
    known = tokenizer_of(CONFIGS["bert"])
    known = WordPiece(known.tokens, lowercase=True, max_word=100)  # the class's
    export_model(here, model, known, origin={})
    for each in (*OURS, "jaxlm_export.json", *lacks):
        (here / each).unlink()
    edit(here / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert main(["import", str(here), "--out", str(tmp_path / "in"), "--verify"]) == 0
    assert (
        "puts [CLS] and [SEP] around a text, jaxlm nothing" in capsys.readouterr().err
    )


def test_a_model_of_a_task_is_compared_without_its_head(tmp_path, capsys):
    here = source(tmp_path / "source", "bert")
    tensors = load_file(here / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if not name.startswith("cls.")}
    kept["classifier.weight"] = np.zeros((2, 16), np.float32)
    save_file(kept, here / "model.safetensors", {"format": "pt"})
    edit(here / "config.json", architectures=["BertForSequenceClassification"])
    words = [str(here), "--out", str(tmp_path / "in"), "--ignore", "classifier.*"]
    assert main(["import", *words, "--verify"]) == 0
    assert "max |hidden|" in capsys.readouterr().out


def test_what_differs_from_the_source_is_shown(tmp_path):
    """The ids of a text, with both lists of tokens, and the outputs."""
    here, out = source(tmp_path / "source", "bert"), tmp_path / "in"
    import_model(here, out)
    edit(
        here / "tokenizer_config.json",
        tokenizer_class="BertTokenizer",
        strip_accents=False,
    )
    tensors = load_file(here / "model.safetensors")
    tensors["cls.predictions.bias"][7] += 1e-2
    save_file(tensors, here / "model.safetensors", {"format": "pt"})
    options = {"tokenizer": None, "dtype": "float32"}
    (found,) = verify_import(jaxlm.load(out), out, here, **options)
    assert not found.passed and found.lines[-1].endswith("NO PARITY")
    said = "\n".join(found.lines)
    assert "of 25 texts\n  'á ć" in said and "\n    jaxlm         [CLS] a c" in said
    assert "\n    transformers  [CLS] [UNK]" in said and "max |logits|" in said


def test_a_layout_that_transformers_does_not_read_is_said(tmp_path, capsys):
    here = tmp_path / "source"
    here.mkdir()
    openai(here, random_params(GPT1))
    words = [str(here), "--out", str(tmp_path / "in"), "--verify"]
    assert main(["import", *words]) == 0
    said = capsys.readouterr().out
    assert f"transformers reads no {here}: these figures are of {tmp_path}/in" in said


def test_an_elmo_that_nothing_reads_is_refused_at_once(tmp_path, capsys):
    config = elmo("tiny", d_model=4, d_ff=6, filters=(2, 3), max_characters=8)
    params = random_params(config)
    words = WordVocab(MARKS)
    export_model(tmp_path / "elmo", from_params(config, params), words, origin={})
    out = tmp_path / "in"
    assert main(["import", str(tmp_path / "elmo"), "--out", str(out), "--verify"]) == 2
    assert "the programs that read ELMo's files" in capsys.readouterr().err
    assert not out.exists()
