"""A sentence model's own vectors, or its module is refused by name."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from exported import CONFIGS, export, tokenizer_of

import jaxlm
from jaxlm.cli import main
from jaxlm.convert import gguf
from jaxlm.convert.model_directory import import_model
from jaxlm.convert.sentence import read_sentence_model
from jaxlm.models.sentence import SentenceModel
from jaxlm.open import pretrained
from jaxlm.types import UserError

TEXTS = [
    "It was.",
    "",
    "SHE was out of the house that nobody acknowledged, and out of it.",
]
LACKS = not importlib.util.find_spec("sentence_transformers")
oracle = pytest.mark.skipif(LACKS, reason="needs sentence_transformers")


def modules(*kinds):
    """The content of modules.json, with the Transformer in front."""
    return [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(("Transformer", *kinds))
    ]


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


CLS = {
    "modules.json": modules("Pooling"),
    "1_Pooling/config.json": {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 8, "do_lower_case": False},
}

PAD = {"pad_token": "<|endoftext|>"}


def saved(directory, here):
    """What sentence-transformers saves: everything that jaxlm reads at once."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models
    from torch import nn

    parts = [
        models.Transformer(str(directory), max_seq_length=16),
        models.Pooling(16, pooling_mode=("max", "weightedmean"), include_prompt=False),
        models.Dense(32, 12, bias=False, activation_function=nn.GELU()),
        models.Dense(12, 6),
        models.Normalize(),
    ]
    prompts = {"query": "it was: ", "passage": "OUT "}
    model = SentenceTransformer(
        modules=parts, prompts=prompts, default_prompt_name="passage", device="cpu"
    )
    model.save(str(here))
    return here


@oracle
@pytest.mark.parametrize(
    "pooling", ["cls", "mean_sqrt_len_tokens", "lasttoken", "max", "everything"]
)
def test_vectors_are_those_of_sentence_transformers(pooling, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    source, out, back = (tmp_path / name for name in ("source", "in", "out"))
    if pooling == "everything":
        export(tmp_path / "model", "bert")
        saved(tmp_path / "model", source)
    else:
        export(source, "bert")
        options = {"embedding_dimension": 16, "pooling_mode": pooling}
        new = {"1_Pooling/config.json": options} if pooling != "cls" else {}
        write(source, CLS | new)
    theirs = SentenceTransformer(str(source), device="cpu")
    want = theirs.encode(TEXTS)
    assert main(["import", str(source), "--out", str(out)]) == 0
    assert pooling in capsys.readouterr().err or pooling == "everything"
    model = jaxlm.load(out)
    np.testing.assert_allclose(
        model.embed(TEXTS, pooling="sentence"), want, atol=1e-5, rtol=1e-5
    )
    words = [str(out), "--to", "sentence", "--out", str(back)]
    assert main(["export", *words]) == 0
    again = SentenceTransformer(str(back), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), want, atol=1e-6)
    if pooling == "everything":
        want = theirs.encode(TEXTS, prompt_name="query")
        got = model.embed(TEXTS, pooling="sentence", prompt="query")
        np.testing.assert_allclose(got, want, atol=1e-5)
        with pytest.raises(UserError, match="the sentence model has document, passage"):
            model.embed(TEXTS, pooling="sentence", prompt="quarry")


@oracle
def test_the_length_of_a_row_may_stand_in_a_file_of_another_name(tmp_path):
    from sentence_transformers import SentenceTransformer

    source = tmp_path / "source"
    export(source, "bert")
    name = "sentence_bert_config.json"
    write(source, {**CLS, name: {"max_seq_length": 4}})
    (source / name).rename(source / "sentence_xlm-roberta_config.json")
    import_model(source, tmp_path / "in")
    model = jaxlm.load(tmp_path / "in")
    assert model.sentence is not None and model.sentence.max_length == 4
    want = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    got = model.embed(TEXTS, pooling="sentence")
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


@oracle
def test_a_gpt_makes_sentence_vectors_too(tmp_path):
    from sentence_transformers import SentenceTransformer

    source, out, texts = tmp_path / "source", tmp_path / "out", [*TEXTS[::2], "out"]
    export(source, "gpt2")
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PAD))
    options = {"embedding_dimension": 16, "pooling_mode": ["weightedmean", "lasttoken"]}
    write(source, CLS | {"1_Pooling/config.json": options})
    want = SentenceTransformer(str(source), device="cpu").encode(texts)
    got = jaxlm.load(source).embed(texts, pooling="sentence")
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert main(["export", str(source), "--to", "sentence", "--out", str(out)]) == 0
    again = SentenceTransformer(str(out), device="cpu").encode(texts)
    np.testing.assert_allclose(again, want, atol=1e-6)


@oracle
def test_import_verifies_sentence_vectors(tmp_path, capsys):
    export(tmp_path / "source", "bert")
    write(tmp_path / "source", CLS)
    words = [str(tmp_path / "source"), "--out", str(tmp_path / "in"), "--verify"]
    assert main(["import", *words]) == 0
    assert "sentence-transformers" in capsys.readouterr().out


def test_the_record_goes_on_from_directory_to_directory(tmp_path, capsys):
    export(tmp_path / "source", "bert")
    write(tmp_path / "source", CLS)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS))
    here = tmp_path / "source"
    for name, *words in (
        ("in", "import"),
        ("hf", "export", "--to", "hf"),
        ("st", "export", "--to", "sentence"),
    ):
        assert main([*words, str(here), "--out", str(tmp_path / name)]) == 0
        here = tmp_path / name
        for file, content in CLS.items():
            assert json.loads((here / file).read_text()) == content
    words = [str(here), "--text", str(text), "--out", str(tmp_path / "x.npz")]
    assert main(["embed", *words, "--pooling", "sentence"]) == 0
    assert "1 line cut off: the sentence model reads no more" in capsys.readouterr().err
    found = np.load(tmp_path / "x.npz")
    want = jaxlm.load(here).embed(TEXTS[:2], pooling="cls")
    np.testing.assert_allclose([found["0"], found["1"]], want, atol=1e-6)
    assert len(found["tokens/2"]) == 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"modules.json": modules("Pooling", "LSTM")}, "models.LSTM is not done here"),
        ({"modules.json": modules("Dense")}, "Transformer, Dense are not done here"),
        ({"modules.json": [{"type": 3}]}, "modules.json is not a list of modules"),
        (
            {
                "modules.json": [
                    {**modules()[0], "path": "0_BERT"},
                    *CLS["modules.json"],
                ]
            },
            "move the files of 0_BERT up",
        ),
        (
            {"modules.json": [modules()[0], {**modules("Pooling")[1], "path": ".."}]},
            "path '..' is not a folder beside it",
        ),
        ({"modules.json": [{**modules()[0], "path": None}]}, "move the files of None"),
        (
            {"config_sentence_transformers.json": {"default_prompt_name": ["q"]}},
            r"prompts has no \['q'\]",
        ),
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, "'median' is none of"),
        (
            {"1_Pooling/config.json": {"weights": [1]}},
            r"weights = \[1\] is not supported",
        ),
        ({"sentence_bert_config.json": {"query_length": 9}}, "query_length = 9 is not"),
        (
            {"sentence_bert_config.json": {"max_seq_length": "x"}},
            "is not a positive int",
        ),
        ({"sentence_bert_config.json": {"max_seq_length": 2}}, "room for no token"),
        ({"1_Pooling/config.json": {}}, "1_Pooling/config.json says no pooling"),
        ({"tokenizer_config.json": {"truncation_side": "left"}}, "'left' is not done"),
        ({"tokenizer.json": {"truncation": {"direction": "Left"}}}, "'Left' is not"),
        (
            {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            'model_type = "SparseEncoder" is not supported',
        ),
        (
            {"config_sentence_transformers.json": {"default_prompt_name": "q"}},
            "prompts has no 'q'",
        ),
        (
            {
                "modules.json": modules("Pooling", "Dense"),
                "2_Dense/config.json": {"activation_function": "torch.nn.Softplus"},
            },
            "activation_function torch.nn.Softplus is none of Tanh",
        ),
    ],
)
def test_what_jaxlm_has_no_like_of_is_refused(change, message, tmp_path):
    write(tmp_path, {**CLS, **change})
    with pytest.raises(UserError, match=message):
        read_sentence_model(tmp_path, CONFIGS["bert"])


def test_an_encoder_is_used_whatever_modules_are_behind_it(tmp_path):
    export(tmp_path / "source", "bert")
    write(tmp_path / "source", {**CLS, "modules.json": modules("CNN")})
    assert "embed" in pretrained(str(tmp_path / "source")).params
    model = jaxlm.load(tmp_path / "source")
    assert model.embed(TEXTS).shape == (3, 16)
    with pytest.raises(UserError, match="CNN is not done here"):
        model.embed(TEXTS, pooling="sentence")
    with pytest.raises(UserError, match="CNN is not done here"):
        import_model(tmp_path / "source", tmp_path / "in")
    (tmp_path / "source" / "config.json").unlink()
    with pytest.raises(UserError, match="move the files of its 0_… beside modules"):
        import_model(tmp_path / "source", tmp_path / "in")


@pytest.mark.parametrize(
    "sentence, message",
    [
        (SentenceModel(("max",)), "no word for a pooling by max"),
        (SentenceModel(("cls", "mean")), "a pooling by cls and mean"),
        (SentenceModel(prompts={"q": "x"}, prompt="q"), "a prompt in front of each"),
    ],
)
def test_gguf_refuses_what_it_has_no_word_for(sentence, message, tmp_path):
    config = CONFIGS["bert"]
    model = SimpleNamespace(
        config=config, params={}, tokenizer=tokenizer_of(config), sentence=sentence
    )
    with pytest.raises(UserError, match=message):
        gguf.write_gguf(tmp_path / "x.gguf", model, "float32", {})


@pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="needs gguf")
def test_gguf_says_the_pooling_of_the_model(tmp_path):
    from gguf import GGUFReader, PoolingType

    export(tmp_path / "model", "bert")
    write(tmp_path / "model", CLS)
    out = tmp_path / "x.gguf"
    assert (
        main(["export", str(tmp_path / "model"), "--to", "gguf", "--out", str(out)])
        == 0
    )
    field = GGUFReader(out).fields["bert.pooling_type"]
    assert field.parts[field.data[0]][0] == PoolingType.CLS
