"""Files as the authors of BERT and GPT-1 released them."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, GPT1, export, openai, random_params, same

from jaxlm.convert.model_directory import import_model, read_model
from jaxlm.types import UserError


def test_gpt1_comes_in_from_ten_pieces_of_one_vector(tmp_path):
    params = random_params(GPT1)
    (tmp_path / "gpt1").mkdir()
    openai(tmp_path / "gpt1", params)
    import_model(tmp_path / "gpt1", tmp_path / "in")
    loaded = read_model(tmp_path / "in", lambda _, array: jnp.asarray(array))
    assert loaded.config == GPT1
    same(loaded.params, params)


def test_a_piece_that_is_absent_or_an_object_is_refused(tmp_path):
    openai(tmp_path, random_params(GPT1))
    (tmp_path / "params_3.npy").unlink()
    with pytest.raises(UserError, match=r"params_3\.npy"):
        import_model(tmp_path, tmp_path / "in")
    np.save(tmp_path / "params_3.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="is not OpenAI's GPT-1"):
        import_model(tmp_path, tmp_path / "in")
    np.save(tmp_path / "params_3.npy", np.zeros(7, np.float32))
    with pytest.raises(UserError, match="numbers are not the"):
        import_model(tmp_path, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def google(directory, params):
    """google-research/bert, by the names that its modeling.py and run_pretraining.py
    give the variables, with a slot of the optimiser."""
    tf = pytest.importorskip("tensorflow")
    at, h = "bert/encoder/layer_{}", params["layers"]
    out = {
        "bert/embeddings/word_embeddings": params["embed"]["token"]["table"],
        "bert/embeddings/position_embeddings": params["embed"]["position"]["table"],
        "bert/embeddings/token_type_embeddings": params["embed"]["token_type"]["table"],
        "cls/predictions/output_bias": params["mlm"]["bias"],
        "cls/seq_relationship/output_weights": params["nsp"]["kernel"].T,
        "cls/seq_relationship/output_bias": params["nsp"]["bias"],
        "global_step": np.int64(7),
        "cls/predictions/output_bias/adam_m": params["mlm"]["bias"] * 0,
    }

    def norm(name, leaf):
        out[f"{name}/LayerNorm/gamma"], out[f"{name}/LayerNorm/beta"] = (
            leaf["scale"],
            leaf["bias"],
        )

    def dense(name, leaf, shape):
        out[f"{name}/kernel"] = np.reshape(leaf["kernel"], shape)
        out[f"{name}/bias"] = np.ravel(leaf["bias"])

    norm("bert/embeddings", params["embed"]["norm"])
    dense("bert/pooler/dense", params["pooler"], (16, 16))
    dense("cls/predictions/transform/dense", params["mlm"]["dense"], (16, 16))
    norm("cls/predictions/transform", params["mlm"]["norm"])
    for i in range(2):
        pick = lambda part, i=i: {k: v[i] for k, v in part.items()}  # noqa: E731
        layer = at.format(i)
        for name in ("query", "key", "value"):
            leaf = pick(h["attention"][name])
            dense(f"{layer}/attention/self/{name}", leaf, (16, 16))
        leaf = pick(h["attention"]["out"])
        dense(f"{layer}/attention/output/dense", leaf, (16, 16))
        norm(f"{layer}/attention/output", pick(h["attention_norm"]))
        dense(f"{layer}/intermediate/dense", pick(h["mlp"]["wi"]), (16, 24))
        dense(f"{layer}/output/dense", pick(h["mlp"]["wo"]), (24, 16))
        norm(f"{layer}/output", pick(h["mlp_norm"]))
    tf.raw_ops.SaveV2(
        prefix=str(directory / "bert_model.ckpt"),
        tensor_names=list(out),
        shape_and_slices=[""] * len(out),
        tensors=[np.asarray(each) for each in out.values()],
    )


@pytest.fixture
def release(tmp_path):
    """A directory as Google's archives unpack."""
    directory = tmp_path / "release"
    params = export(tmp_path / "hf", "bert")
    directory.mkdir()
    google(directory, params)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    kept = ("architectures", "model_type", "dtype", "layer_norm_eps")
    config = {k: v for k, v in config.items() if k not in kept}
    (directory / "bert_config.json").write_text(json.dumps(config))
    vocabulary = (tmp_path / "hf" / "vocab.txt").read_bytes()
    (directory / "vocab.txt").write_bytes(vocabulary)
    return directory, params


def test_a_tensorflow_checkpoint_comes_in(release, tmp_path):
    directory, params = release
    import_model(directory, tmp_path / "in")
    loaded = read_model(tmp_path / "in", lambda _, array: jnp.asarray(array))
    assert loaded.config == CONFIGS["bert"]
    same(loaded.params, params)


def test_a_checkpoint_without_its_data_is_refused(release, tmp_path):
    directory, _ = release
    next(directory.glob("*.data-*")).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        import_model(directory, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_tensorflow_is_named_with_its_command(tmp_path, monkeypatch):
    for name in ("bert_config.json", "bert_model.ckpt.index"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="needs tensorflow: pip install tensorflow-cpu"):
        import_model(tmp_path, tmp_path / "in")
