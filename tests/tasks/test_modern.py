"""Tasks on a tiny ModernBERT: rotary positions, no biases, pooler or token types."""

from __future__ import annotations

import json
import string

import jax.numpy as jnp
import numpy as np
import pytest
from reviews import BAD, GOOD, REST, write_tsv

from jaxlm.cli import main
from jaxlm.config import TaskConfig, TextConfig, bert
from jaxlm.convert.model_directory import export_model, from_params
from jaxlm.families import build
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.objective import lr_scales_of
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params
from jaxlm.tree import leaves

LAYOUT = {"num_layers": 3, "positions": "rope", "norm": "pre", "norm_eps": 1e-5}
LAYOUT |= {"gated": True, "biases": False, "num_token_types": 0, "nsp": False}
LAYOUT |= {"num_heads": 2, "d_model": 32, "d_ff": 48, "max_length": 64}
CONFIG = bert("tiny", vocab_size=200, init_std=0.1, window=16, **LAYOUT)
FLAGS = """
    --batch 16 --length 32 --optim.peak 0.001 --mesh.data 1 --log.tensorboard false
    --log.every 50 --save_every 50 --eval_every 0 --task.buckets 8 16 32
"""


def command(recipe, model, data, workdir, flags):
    where = ["--init", model, "--data", data, "--workdir", str(workdir)]
    return ["finetune", recipe, *where, *FLAGS.split(), *flags.split()]


@pytest.fixture(scope="module")
def modern(tmp_path_factory):
    words = [*GOOD, *BAD, *REST, *string.ascii_lowercase]
    tokenizer = train_tokenizer([" ".join(words)] * 20, TextConfig(), 200)
    source = from_params(CONFIG, init_params(build(CONFIG), 0))
    out = tmp_path_factory.mktemp("model") / "modern"
    export_model(out, source, tokenizer, origin={})
    return str(out)


@pytest.mark.long
def test_texts_by_mean_pooling_and_layer_wise_rates(modern, sst2, tmp_path, capsys):
    flags = "--task.pooling mean --task.epochs 10 --task.layer_decay 0.9"
    assert main(command("sst2", modern, sst2, tmp_path / "r", flags)) == 0
    assert "compiled the step for 16 × " not in capsys.readouterr().out  # packed rows
    dev, out = f"{sst2}/dev.tsv", tmp_path / "out.tsv"
    assert main(["evaluate", str(tmp_path / "r"), "--data", dev, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    assert main(["predict", str(tmp_path / "r"), "--data", dev, "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) >= 60


def test_pairs_by_cls_pooling_and_muon(modern, tmp_path, capsys):
    """Without token types, only [SEP] and positions tell the texts of a pair apart."""
    score = {"dull": 0.5, "warm": 2.5}
    rows = [
        (f"the {w} film", f"a {v} story", str(score[w] - score[v]))
        for w in score
        for v in score
    ] * 12
    head = ("sentence1", "sentence2", "score")
    for name in ("train", "dev"):
        write_tsv(tmp_path / "d" / f"{name}.tsv", head, rows)
    data, run = str(tmp_path / "d"), tmp_path / "r"
    flags = """
        --optim.name muon --optim.peak 0.03 --task.pooling cls --task.epochs 20
        --task.freeze embed/norm/.* --task.layer_decay 0.95
    """
    words = command("stsb", modern, data, run, flags)
    assert main([*words, "--stop", "20"]) == 0
    assert main(words) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", f"{data}/dev.tsv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pearson"] > 0.9


def test_layers_of_a_gated_tree_without_biases_have_rates_by_depth():
    params = init_params(TaskModel(CONFIG, TaskConfig(), 2, "mean"), 0)
    scales = dict(leaves(lr_scales_of(TaskConfig(layer_decay=0.5), 3, params)))
    for path in ("layers/mlp/gate/kernel", "layers/mlp_norm/scale"):
        assert scales[path].ravel().tolist() == [0.125, 0.25, 0.5]
    assert scales["embed/norm/scale"] == 0.0625
    assert scales["final_norm/scale"] == scales["task/kernel"] == 1


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_window_wider_than_the_rows_sees_all_of_them(layout):
    """ModernBERT's window is of 128 tokens; rows of a task may be shorter."""
    draw = np.random.default_rng(0)
    tokens = jnp.asarray(draw.integers(5, 200, (2, 12)), jnp.int32)
    mask = jnp.asarray(np.arange(12) < np.array([[12], [9]]))
    segments = jnp.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3], jnp.int32)
    packed = {"segments": segments if layout == "packed" else None}
    found = []
    for window in (128, 0):
        config = bert("tiny", vocab_size=200, init_std=0.1, window=window, **LAYOUT)
        module = TaskModel(config, TaskConfig(), 2, "mean")
        params = init_params(module, 0)
        zeros = jnp.zeros_like(tokens)
        found.append(module.apply({"params": params}, tokens, zeros, mask, **packed))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
