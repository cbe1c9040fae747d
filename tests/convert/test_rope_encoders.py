"""RoFormer and ModernBERT in and out, compared with transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, export, random_params, same, tokenizer_of
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.config import BertConfig
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_directory import export_model, import_model, read_model
from jaxlm.models.bert import Bert
from jaxlm.tree import leaves
from jaxlm.types import Note, UserError

WEIGHTS = "model.safetensors"
MODERN, ROFORMER = CONFIGS["modernbert"], CONFIGS["roformer"]
# ModernBERT-base as it was published.
PUBLISHED = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "position_embedding_type": "absolute",
    "sep_token_id": 50282,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 50368,
}


def shape(base: BertConfig, seed: int) -> BertConfig:
    """A random odd shape of a layout."""
    random = np.random.RandomState(seed)
    heads, half = random.randint(1, 6), random.randint(4, 8)
    changes = {
        "num_heads": heads,
        "d_model": 2 * half * heads,
        "d_ff": random.randint(3, 40),
        "num_layers": random.randint(1, 8),
        "vocab_size": random.randint(32, 300),
        "max_length": random.randint(30, 60),
        "activation": random.choice(["gelu_erf", "gelu_tanh", "relu"]),
        "norm_eps": random.choice([1e-5, 1e-7]),
    }
    if base.layout == "modernbert":
        every = random.randint(1, 4)
        changes |= {"window": 2 * random.randint(1, 9) * (every > 1)}
        changes |= {"global_every": every if every > 1 else 3}
        changes |= {"rope_base": random.uniform(5, 1e5), "local_rope_base": 77.5}
    else:
        changes |= {"num_token_types": random.randint(1, 5)}
    changes = {name: getattr(x, "item", lambda x=x: x)() for name, x in changes.items()}
    return dataclasses.replace(base, **changes)


def write(out, config, params):
    """A directory, which tests may change."""
    tokenizer = tokenizer_of(config)
    export_model(out, from_params(config, params), tokenizer, origin={})
    (out / "jaxlm_export.json").unlink()


def theirs_of(directory):
    """transformers' model; nothing is missing, nothing is left."""
    import transformers

    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("base", [ROFORMER, MODERN], ids=["roformer", "modernbert"])
def test_odd_shapes_have_transformers_logits_and_gradients(base, seed, tmp_path):
    import torch

    config = shape(base, seed)
    params = jax.tree.map(lambda x: x / 2, random_params(config, seed))
    write(tmp_path / "out", config, params)
    loaded = read_model(tmp_path / "out", lambda _, array: jnp.asarray(array))
    assert loaded.config == config
    source = from_params(config, params)
    model = theirs_of(tmp_path / "out")
    random = np.random.RandomState(seed)
    lengths = np.array([config.max_length, 17, 1])
    mask = np.arange(config.max_length) < lengths[:, None]
    tokens = random.randint(1, config.vocab_size, mask.shape) * mask
    types = random.randint(0, max(config.num_token_types, 1), mask.shape)
    aims = random.standard_normal((*mask.shape, config.vocab_size))
    aims = np.float32(aims * mask[..., None])

    inputs = {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}
    inputs |= {"token_type_ids": types} if config.num_token_types else {}
    out = model(**{name: torch.tensor(x) for name, x in inputs.items()}).logits
    (out * torch.tensor(aims)).sum().backward()
    grads = {name: x.grad for name, x in model.named_parameters()}

    def read(name):
        found = grads.get(name, grads.get(f"{model.base_model_prefix}.{name}"))
        return found.numpy()

    want = source.table.params(read, lambda _, array: array)

    def loss(params):
        given = jnp.asarray(tokens), jnp.asarray(types)
        facts = {"lengths": jnp.asarray(lengths)}
        logits = Bert(config).apply({"params": params}, *given, **facts).logits
        return (logits * aims).sum(), logits

    with jax.default_matmul_precision("float32"):
        (_, mine), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    logits = out.detach().numpy()
    assert np.abs(mine - logits)[mask].max() < 1e-5 * np.abs(logits[mask]).max()
    most = max(np.abs(x).max() for _, x in leaves(want))
    for (path, one), (_, other) in zip(leaves(found), leaves(want), strict=True):
        one, other = (np.asarray(each) for each in (one, other))
        if path == "layers/attention_norm/scale" and config.norm == "pre":
            one, other = one[1:], other[1:]
        if one.size:
            # A gradient that is rounding alone is compared with the others.
            size = max(np.abs(other).max(), 1e-3 * most)
            assert np.abs(one - other).max() < 1e-5 * size, path


@pytest.mark.oracle
def test_8192_tokens_with_local_attention(tmp_path):
    import torch

    config = dataclasses.replace(
        MODERN,
        vocab_size=64,
        max_length=8192,
        window=128,
        rope_base=160_000.0,
        local_rope_base=10_000.0,
        num_layers=2,
        num_heads=1,
        d_model=16,
    )
    write(tmp_path / "out", config, random_params(config))
    ids = np.random.RandomState(0).randint(5, 64, (1, 8192))
    import transformers

    kind = transformers.AutoModelForMaskedLM
    model = kind.from_pretrained(tmp_path / "out", attn_implementation="sdpa").eval()
    with torch.no_grad():
        want = model(torch.tensor(ids)).logits.numpy()
    mine = np.asarray(jaxlm.load(tmp_path / "out").forward(ids).logits)
    assert np.abs(mine - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["roformer", "modernbert"])
def test_auto_classes_load_the_tokenizer_and_the_model(name, tmp_path):
    import transformers

    export(tmp_path / "out", name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    words = tokenizer("It was a truth [MASK].")
    ours = jaxlm.load(tmp_path / "out").tokenizer
    ids = ours.encode("It was a truth [MASK].", specials=True).ids.tolist()
    assert words["input_ids"] == [ours.special.cls, *ids, ours.special.sep]
    assert ("token_type_ids" in words) == (name == "roformer")
    theirs_of(tmp_path / "out")


def test_the_published_config_is_read(tmp_path):
    import warnings

    from jaxlm.convert.config_json import ConfigJson
    from jaxlm.convert.model_types import check_config, model_type_in

    path = tmp_path / "config.json"
    options = ConfigJson(path, PUBLISHED)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)  # every key is known
        check_config(options)
    kind = model_type_in(options)
    config = kind.from_json(options, {"mlm"})
    assert config == BertConfig(
        vocab_size=50_368,
        max_length=8192,
        num_layers=22,
        num_heads=12,
        d_model=768,
        d_ff=1152,
        dropout=0.0,
        num_token_types=0,
        positions="rope",
        norm="pre",
        gated=True,
        biases=False,
        window=128,
        global_every=3,
        rope_base=160_000.0,
        local_rope_base=10_000.0,
        norm_eps=1e-5,
        nsp=False,
    )
    assert config.layout == "modernbert"
    written = ConfigJson(path, kind.to_json(config, {}))
    assert kind.from_json(written, {"mlm"}) == config
    new = {n: x for n, x in written.values.items() if n not in PUBLISHED}
    assert new.keys() == {"layer_types", "rope_parameters"}
    bare = ConfigJson(path, {"architectures": ["ModernBertModel"]})
    assert kind.from_json(bare, {}) == dataclasses.replace(config)  # transformers' own


def local(*layers):
    names = {True: "sliding_attention", False: "full_attention"}
    return [names[bool(each)] for each in layers]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("modernbert", {"attention_bias": True}, "attention_bias = true is not supp"),
        ("modernbert", {"mlp_bias": True}, "mlp_bias = true is not supported"),
        ("modernbert", {"norm_bias": True}, "norm_bias = true is not supported"),
        ("modernbert", {"classifier_bias": True}, "classifier_bias = true is not su"),
        ("modernbert", {"decoder_bias": False}, "decoder_bias = false is not supp"),
        ("modernbert", {"tie_word_embeddings": False}, "tie_word_embeddings = false"),
        ("modernbert", {"local_attention": 5}, "local_attention = 5 is not supported"),
        (
            "modernbert",
            {"layer_types": local(0, 1, 0, 0, 1)},
            'layer_types = .*"sliding.* is not supported: jaxlm has every so-manieth',
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            'rope_parameters.full_attention = {"rope_type": "yarn"} is not supported',
        ),
        (
            "modernbert",
            {"rope_parameters": {"rope_type": "linear", "factor": 2}},
            "rope_parameters = .* is not supported: jaxlm has those of full_attention",
        ),
        (
            "modernbert",
            {"rope_scaling": {"rope_type": "linear"}},
            "rope_scaling = .* is not supported",
        ),
        (
            "modernbert",
            {"classifier_activation": "relu"},
            "classifier_activation = 'relu' is not hidden_activation = 'gelu'",
        ),
        ("roformer", {"embedding_size": 30}, "embedding_size = 30 is not hidden_size"),
        ("roformer", {"rotary_value": True}, "rotary_value = true is not supported"),
        ("modernbert", {"model_type": "eurobert"}, "'eurobert' is not read: .*modern"),
    ],
)
def test_what_a_config_says_is_done_or_refused(name, change, message, tmp_path):
    export(tmp_path / "out", name)
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        import_model(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.oracle
@pytest.mark.parametrize("layers", [(0, 1, 1, 0, 1), (0, 0, 0, 0, 0), (0, 1, 1, 1, 1)])
def test_types_of_layers_alone_say_what_is_local(layers, tmp_path):
    """As new versions of transformers write them, without the older words."""
    import torch

    export(tmp_path / "out", "modernbert")
    path = tmp_path / "out" / "config.json"
    said = json.loads(path.read_text())
    for old in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"):
        said.pop(old)
    path.write_text(json.dumps({**said, "layer_types": local(*layers)}))
    ids = np.arange(5, 45)[None]
    with torch.no_grad():
        want = theirs_of(tmp_path / "out")(torch.tensor(ids)).logits.numpy()
    found = jaxlm.load(tmp_path / "out").forward(ids).logits
    assert np.abs(np.asarray(found) - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.pop("model.layers.2.attn_norm.weight"),
            r"- layers\.2\.attn_norm\.weight  \[18\]  .*is not in the file",
        ),
        (
            lambda t: t.update({"model.layers.0.attn_norm.weight": np.ones(18, "f4")}),
            r"\+ layers\.0\.attn_norm\.weight  \[18\] has no use",
        ),
        (
            lambda t: t.update({"model.layers.1.attn.Wqkv.bias": np.ones(54, "f4")}),
            r"\+ layers\.1\.attn\.Wqkv\.bias  \[54\] has no use",
        ),
        (
            lambda t: t.update(
                {"model.layers.1.mlp.Wi.weight": np.ones((20, 18), "f4")}
            ),
            r"≠ layers\.1\.mlp\.Wi\.weight  \[20, 18\] in the file, \[40, 18\]",
        ),
        (
            lambda t: t.update({"decoder.weight": np.ones((150, 18), "f4")}),
            r"decoder\.weight is not model\.embeddings\.tok_embeddings\.weight",
        ),
    ],
)
def test_tensors_that_are_missing_or_extra_are_named(change, message, tmp_path):
    export(tmp_path / "out", "modernbert")
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / "out" / WEIGHTS)
    with pytest.raises(UserError, match=message):
        import_model(tmp_path / "out", tmp_path / "in")


def test_the_encoder_of_a_task_is_read_without_its_head(tmp_path):
    """A class for sequences has the dense layer of masked words, but not their bias."""
    params = export(tmp_path / "out", "modernbert")
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    tensors["classifier.weight"] = np.ones((3, 18), np.float32)
    del tensors["decoder.bias"]
    save_file(tensors, tmp_path / "out" / WEIGHTS)
    with pytest.raises(UserError, match=r"--ignore 'classifier\.\*' 'head\.\*' leaves"):
        import_model(tmp_path / "out", tmp_path / "in")
    ignore = ("classifier.*", "head.*")
    with pytest.warns(Note, match="ignored as asked"):
        import_model(tmp_path / "out", tmp_path / "in", ignore=ignore)
    found = read_model(tmp_path / "in", lambda _, array: jnp.asarray(array)).params
    same(found, {name: part for name, part in params.items() if name != "mlm"})


def test_a_roformer_leaves_its_head_of_pairs_behind(tmp_path):
    config = dataclasses.replace(ROFORMER, nsp=True)
    params = random_params(config)
    with pytest.warns(Note, match="RoFormer has no head of next .* and no pooler: le"):
        write(tmp_path / "out", config, params)
    found = read_model(tmp_path / "out", lambda _, array: jnp.asarray(array))
    assert found.config == ROFORMER
    kept = {n: part for n, part in params.items() if n not in ("nsp", "pooler")}
    same(found.params, kept)


@pytest.mark.parametrize(
    "change", [{"num_token_types": 2}, {"norm": "post"}, {"gated": False}]
)
def test_a_choice_that_no_program_loads_is_refused(change, tmp_path):
    config = dataclasses.replace(MODERN, **change)
    assert config.layout is None
    name, value = next(iter(change.items()))
    with pytest.raises(UserError, match=f"{name} = {value}.*: the layouts that are wr"):
        from_params(config, random_params(config))
