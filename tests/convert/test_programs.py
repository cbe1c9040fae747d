"""llama.cpp, onnxruntime and jax.export say what jaxlm says, or a model is refused."""

import importlib.util
import json
import sys
from hashlib import sha256

import jax
import numpy as np
import pytest
from exported import CONFIGS, export, random_params, tokenizer_of

import jaxlm
from jaxlm.cli import main
from jaxlm.config import elmo
from jaxlm.convert import gguf, model_directory
from jaxlm.convert.model_directory import Loaded, read_model
from jaxlm.convert.stablehlo import write_stablehlo
from jaxlm.convert.verify import check_client
from jaxlm.types import UserError


def installed(*names):
    lacking = [name for name in names if not importlib.util.find_spec(name)]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {' '.join(lacking)}")


@pytest.mark.parametrize("name", ["bert", "roformer", "modernbert", "gpt1", "gpt2"])
def test_a_stablehlo_program_runs_at_any_length(name, tmp_path):
    export(tmp_path / "model", name)
    model = jaxlm.load(tmp_path / "model")
    write_stablehlo(tmp_path / "program", model.config, model.params)
    data = bytearray((tmp_path / "program").read_bytes())
    program = jax.export.deserialize(data)
    random = np.random.RandomState(0)
    for rows, length in ((1, 3), (3, 40)):
        ids = random.randint(0, 150, (rows, length)).astype(np.int32)
        more = (
            (np.zeros_like(ids), np.ones(ids.shape, bool)) if "gpt" not in name else ()
        )
        got, want = program.call(ids, *more), model.forward(ids)
        np.testing.assert_allclose(got["logits"], want.logits, atol=1e-5)
        np.testing.assert_allclose(got["hidden"], want.hidden[-1], atol=1e-5)


@installed("onnx", "onnxruntime")
@pytest.mark.parametrize(
    "name", ["bert", "ernie", "roformer", "modernbert", "gpt1", "gpt2"]
)
def test_onnxruntime_agrees(name, tmp_path, capsys):
    """By the command line; a GPT also token by token, from an empty past."""
    export(tmp_path / "model", name)
    words = [str(tmp_path / "model"), "--to", "onnx", "--out", str(tmp_path / "out")]
    assert main(["export", *words, "--verify"]) == 0
    assert "parity" in capsys.readouterr().out


@installed("onnx", "onnxruntime")
def test_onnx_rows_are_padded_on_either_side(tmp_path):
    """Right for a BERT, left for a GPT: what is real comes out as alone."""
    import onnxruntime

    for name, left in (("bert", False), ("modernbert", False), ("gpt2", True)):
        config = CONFIGS[name]
        params = random_params(config)
        model = Loaded(config, params, tokenizer_of(config), 0)
        out = tmp_path / name
        model_directory.export(out, "onnx", model, origin={})
        file = "decoder_model" if left else "model"
        session = onnxruntime.InferenceSession(out / "onnx" / f"{file}.onnx")
        ids = np.random.RandomState(1).randint(1, 150, (1, 9))
        pad = ((0, 0), (4, 0) if left else (0, 4))
        outs = []
        for row, mask in ((ids, np.ones_like(ids)), (np.pad(ids, pad), None)):
            mask = np.pad(np.ones_like(ids), pad) if mask is None else mask
            fed = {"input_ids": row, "attention_mask": mask}
            fed |= {"token_type_ids": np.zeros_like(row)} if name == "bert" else {}
            outs.append(session.run(["logits"], fed)[0][0])
        real = outs[1][4:] if left else outs[1][:9]
        np.testing.assert_allclose(real, outs[0], atol=1e-5)


@installed("torch", "sentence_transformers")
def test_sentence_transformers_agrees(tmp_path, capsys):
    export(tmp_path / "model", "bert")
    words = [str(tmp_path / "model"), "--to", "sentence", "--out", f"{tmp_path}/out"]
    assert main(["export", *words, "--verify"]) == 0
    assert "parity" in capsys.readouterr().out


@installed("gguf", "xllamacpp")
@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2"])
def test_llama_agrees(name, tmp_path, capsys):
    export(tmp_path / "model", name)
    words = [str(tmp_path / "model"), "--to", "gguf", "--out", str(tmp_path / "out")]
    assert main(["export", *words, "--verify"]) == 0
    assert "parity" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, message",
    [
        ("ernie", "has a GELU, ERNIE a ReLU"),
        ("gpt1", "norms first, GPT-1 last"),
        ("roformer", "has no RoFormer: export --to hf, onnx"),
    ],
)
def test_models_that_llama_has_no_graph_for_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        gguf.check_graph(CONFIGS[name])


def test_an_elmo_has_one_form_and_others_have_not_that_one(tmp_path):
    words, out = tokenizer_of(CONFIGS["bert"]), tmp_path / "x"
    model = Loaded(elmo("tiny"), {}, words, 0)
    for to in ("hf", "sentence", "gguf", "onnx", "stablehlo"):
        with pytest.raises(UserError, match=f"an ELMo has no form --to {to}"):
            model_directory.export(out, to, model, origin={})
    with pytest.raises(UserError, match="pass --to hf"):
        model = Loaded(CONFIGS["bert"], {}, words, 0)
        model_directory.export(out, "elmo", model, origin={})
    with pytest.raises(UserError, match="ELMo"):
        check_client("elmo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "to, module", [("gguf", "gguf"), ("onnx", "onnx"), ("stablehlo", "flatbuffers")]
)
def test_a_library_that_is_not_installed_is_named_with_its_command(
    to, module, tmp_path, capsys, monkeypatch
):
    export(tmp_path / "model", "gpt2")
    monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    words = ["export", str(tmp_path / "model"), "--to", to, "--out", str(out)]
    assert main(words) == 2
    message = f"export --to {to} needs {module}: pip install {module}"
    assert capsys.readouterr().err == f"jaxlm: {message}\n"
    assert not out.exists()


def test_a_client_that_is_not_installed_is_named_with_its_command(
    tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "xllamacpp" else find(name, *rest),
    )
    words = ["export", "run", "--to", "gguf", "--out", str(tmp_path / "x"), "--verify"]
    assert main(words) == 2
    assert "pip install xllamacpp" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_stores_the_digest_of_each_file(tmp_path, capsys):
    export(tmp_path / "model", "bert", digests=True)
    out = tmp_path / "out"
    words = ["export", str(tmp_path / "model"), "--to", "hf", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said == f"wrote {out}: 7 files, digests in jaxlm_export.json\n"
    stored = json.loads((out / "jaxlm_export.json").read_text())
    files = [path for path in out.iterdir() if path.name != "jaxlm_export.json"]
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in files}
    assert digests == stored["sha256"] and "model.safetensors" in digests
    assert stored["origin"] == {"test": "bert"}
    read_model(out, lambda _, array: array)
