"""Models go out as transformers has them, and come back bit for bit."""

import json

import numpy as np
import pytest
from exported import (
    CONFIGS,
    WEIGHTS,
    edit,
    export,
    random_params,
    read,
    same,
    tokenizer_of,
)
from noted import noted

import jaxlm
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_directory import export_model, import_model
from jaxlm.convert.model_types import model_type_of
from jaxlm.convert.rules import TensorTable
from jaxlm.convert.verify import verify
from jaxlm.families import parameter_shapes
from jaxlm.types import UserError


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_trip_is_bitwise(name, tmp_path):
    params = export(tmp_path / "out", name)
    back = read(tmp_path / "out")
    assert back.config == CONFIGS[name]
    same(back.params, params)
    import_model(tmp_path / "out", tmp_path / "again")
    for file in (WEIGHTS, "tokenizer_config.json", "config.json"):
        one, two = (tmp_path / each / file for each in ("out", "again"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_table_covers_both_sides(name):
    """A parameter without a rule and a rule without a parameter are errors."""
    config = CONFIGS[name]
    shapes = parameter_shapes(config)
    rules = model_type_of(config).rules(config, shapes)
    TensorTable(rules, shapes)
    with pytest.raises(ValueError, match="matches no rule"):
        TensorTable(rules[1:], shapes)
    shapes["embed"].pop("token")
    with pytest.raises(ValueError, match="matches no leaf"):
        TensorTable(rules, shapes)


@pytest.mark.parametrize("dtype, least", [("bfloat16", 2**-9), ("float16", 2**-12)])
def test_half_precision_rounds_and_nothing_else(dtype, least, tmp_path):
    params = export(tmp_path / "out", "gpt2", dtype=dtype)
    want = np.asarray(params["layers"]["mlp"]["wi"]["kernel"])
    got = np.asarray(read(tmp_path / "out").params["layers"]["mlp"]["wi"]["kernel"])
    assert 0 < np.abs(got / want - 1).max() < 2 * least
    size = (tmp_path / "out" / WEIGHTS).stat().st_size
    export(tmp_path / "whole", "gpt2")
    assert size < 0.6 * (tmp_path / "whole" / WEIGHTS).stat().st_size


def test_what_float16_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    config = CONFIGS["bert"]
    params = random_params(config)
    params["mlm"]["bias"] = params["mlm"]["bias"].at[3].set(7e4)

    with pytest.raises(UserError, match=r"cls\.predictions\.bias reaches 7e\+04"):
        export_model(
            tmp_path / "out",
            from_params(config, params),
            tokenizer_of(config),
            dtype="float16",
            origin={},
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name", ["bert", "ernie", "roformer", "modernbert", "gpt1", "gpt2"]
)
def test_transformers_agrees_on_real_text(name, tmp_path):
    export(tmp_path / "out", name)
    report = verify(jaxlm.load(tmp_path / "out"), tmp_path / "out", "hf")
    assert report.passed, report.lines


@pytest.mark.parametrize("factor, passed", [(1 + 2e-6, True), (1 + 2e-5, False)])
def test_a_client_that_computes_otherwise_is_noticed(
    factor, passed, tmp_path, monkeypatch
):
    export(tmp_path / "out", "bert")
    model = jaxlm.load(tmp_path / "out")

    def client(to, out, asked):
        rows = [batch["input_ids"] for batch in asked["batches"]]
        arrays = [np.asarray(model.forward(row).logits[0]) * factor for row in rows]
        return {"version": "0", "what": "logits", "outputs": arrays}

    monkeypatch.setattr("jaxlm.convert.verify.run_client", client)
    report = verify(model, tmp_path / "out", "hf")
    assert report.passed == passed
    assert report.lines[-1].endswith("NO PARITY") != passed


@pytest.mark.oracle
@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_saves_comes_in(name, tmp_path):
    """Its own save, by its own names, gives the same parameters again."""
    import transformers

    params = export(tmp_path / "out", name)
    kind = json.loads((tmp_path / "out/config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "out")
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "in", tokenizer=tmp_path / "out")
    same(read(tmp_path / "in").params, params)


@pytest.mark.oracle
def test_verify_fails_where_the_tokenizer_cannot_be_loaded(tmp_path):
    """Equal logits of equal ids are no parity when nobody compared the ids."""
    export(tmp_path / "out", "bert")
    model = jaxlm.load(tmp_path / "out")
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "out" / name).write_text("damaged\n")
    report = verify(model, tmp_path / "out", "hf")
    assert not report.passed
    assert any("the tokenizer cannot be loaded" in line for line in report.lines)
    assert report.lines[-1].endswith("NO PARITY")


def test_old_names_and_bare_ones_are_known(tmp_path):
    """gamma and beta, no prefix, buffers, and tied copies beside the original."""
    params = export(tmp_path / "out", "bert")

    def rename(tensors):
        old = {
            "LayerNorm.weight": "LayerNorm.gamma",
            "LayerNorm.bias": "LayerNorm.beta",
        }
        out = {}
        for name, array in tensors.items():
            for new, word in old.items():
                name = name.replace(new, word)
            out[name.removeprefix("bert.")] = array
        out["embeddings.position_ids"] = np.arange(40)[None]
        out["cls.predictions.decoder.weight"] = out["embeddings.word_embeddings.weight"]
        out["cls.predictions.decoder.bias"] = out.pop("cls.predictions.bias")
        return out

    edit(tmp_path / "out", rename)
    same(read(tmp_path / "out").params, params)


def test_an_untied_head_is_refused(tmp_path):
    export(tmp_path / "out", "gpt2")
    edit(
        tmp_path / "out",
        lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}),
    )
    with pytest.raises(UserError, match=r"lm_head\.weight is not transformer\.wte"):
        read(tmp_path / "out")


def test_a_model_without_its_heads_embeds_and_fills_nothing(tmp_path):
    export(tmp_path / "out", "bert")
    edit(
        tmp_path / "out",
        lambda tensors: {n: t for n, t in tensors.items() if "cls." not in n},
    )
    model = jaxlm.load(tmp_path / "out")
    assert "mlm" not in model.params and "nsp" not in model.params
    assert model.embed(["It was a truth."]).shape == (1, 16)
    out = model.forward([[2, 7, 3]])
    assert out.logits is None and out.pooled.shape == (1, 16)
    with pytest.raises(UserError, match="has no head of masked words"):
        model.fill("It was a [MASK].")


def test_tensors_that_do_not_fit_are_named_from_both_sides(tmp_path):
    export(tmp_path / "out", "bert")

    def change(tensors):
        tensors["classifier.weight"] = np.zeros((2, 16), np.float32)
        name = "bert.encoder.layer.1.output.dense.weight"
        tensors[name] = tensors[name].T.copy()
        tensors.pop("bert.embeddings.LayerNorm.bias")

    edit(tmp_path / "out", change)
    with pytest.raises(UserError) as error:
        read(tmp_path / "out")
    _, *lines = str(error.value).split("\n")
    assert lines == [
        "  - embeddings.LayerNorm.bias  [16]  (embed/norm/bias) is not in the file",
        "  ≠ encoder.layer.1.output.dense.weight  [24, 16] in the file, [16, 24] by "
        "its config  (layers/mlp/wo/kernel[1])",
        "  + classifier.weight  [2, 16] has no use",
        r"  jaxlm import --ignore 'classifier.*' leaves tensors out",
    ]


def test_tensors_may_be_ignored_by_name_alone(tmp_path):
    params = export(tmp_path / "out", "bert")
    edit(
        tmp_path / "out",
        lambda t: t.update({"classifier.weight": np.zeros((2, 16), np.float32)}),
    )
    here, out = tmp_path / "out", tmp_path / "in"
    _, notes = noted(import_model, here, out, ignore=(r"classifier.*",))
    assert notes == ("tensors ignored as asked: classifier.weight",)
    same(read(tmp_path / "in").params, params)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "distilbert"}, "'distilbert' is not read: did you mean bert"),
        ({"model_type": "gpt_neo"}, "did you mean gpt2"),
        ({"model_type": None, "architectures": None}, "names no model_type"),
        ({"num_hidden_layers": 3}, r"- encoder\.layer\.2\.attention\.output"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide' is not a positive integer"),
        ({"hidden_act": "silu"}, "hidden_act = 'silu' is none of"),
        (
            {"position_embedding_type": "relative_key"},
            'position_embedding_type = "relative_key" is not supported: jaxlm has',
        ),
        ({"use_task_id": True}, "use_task_id = true is not supported"),
        ({"vocab_size": 151}, r"≠ .*word_embeddings.* \[150, 16\] in the file, \[151"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(change, message, tmp_path):
    export(tmp_path / "out", "bert")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        import_model(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "in").exists()
