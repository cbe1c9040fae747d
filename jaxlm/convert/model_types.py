"""transformers' names for our models: fields of config.json and names of tensors.

A `ModelType` has a table for each, which is used in both directions. Modules have the
names of transformers' classes without the prefix of an encoder below a head ("bert.").
BERT's kernels are outputs × inputs there, as in torch's Linear; a GPT's are inputs ×
outputs as here, with query, key and value joined. GPT-1's single matrix of tokens and
positions (openai/finetune-transformer-lm) is two tables in a file; only training treats
it as one matrix. ModernBERT joins query, key and value, and the two products of its
MLP; its first layer has no norm before attention.
"""

import re

from jaxlm.config.checks import instead
from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.config.published import check
from jaxlm.convert.config_json import ATTENTION, ConfigJson, ModelType
from jaxlm.files import read_json
from jaxlm.types import UserError, note

# How the tensors begin that a file has or lacks as a whole → the part of our tree.
_PARTS = {"pooler.": "pooler", "cls.predictions.": "mlm", "cls.seq_": "nsp"}
_PARTS |= {"head.": "mlm", "decoder.": "mlm"}


def part_of(name: str) -> str | None:
    """The optional part of a BERT that a tensor belongs to, or None."""
    return next((_PARTS[each] for each in _PARTS if name.startswith(each)), None)


def canonical(name: str) -> str:
    """The name of a tensor in our tables, from its name in a file."""
    name = re.sub(r"^(bert|ernie|roformer|model|transformer)\.", "", name)
    if "LayerNorm" in name:  # TensorFlow's words
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


_QKV = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
_GELUS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "gelu_pytorch_tanh": "gelu_tanh",
}

BERT = ModelType(
    name="bert",
    stem="Bert",
    prefix="bert.",
    classes={
        "ForPreTraining": ("mlm", "nsp", "pooler"),
        "ForMaskedLM": ("mlm",),
        "Model": (),
    },
    fields={
        "vocab_size": ("vocab_size", 30_522),
        "num_hidden_layers": ("num_layers", 12),
        "num_attention_heads": ("num_heads", 12),
        "hidden_size": ("d_model", 768),
        "intermediate_size": ("d_ff", 3072),
        "max_position_embeddings": ("max_length", 512),
        "type_vocab_size": ("num_token_types", 2),
        "hidden_dropout_prob": ("dropout", 0.1),
        "layer_norm_eps": ("norm_eps", 1e-12),
        "initializer_range": ("init_std", 0.02),
        "attention_probs_dropout_prob": ("dropout", 0.1),
    },
    activation="hidden_act",
    activations=_GELUS,
    written={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    modules={
        "embed/token": "embeddings.word_embeddings",
        "embed/position": "embeddings.position_embeddings",
        "embed/token_type": "embeddings.token_type_embeddings",
        "embed/norm": "embeddings.LayerNorm",
        "layers/attention/query": "encoder.layer.{0}.attention.self.query",
        "layers/attention/key": "encoder.layer.{0}.attention.self.key",
        "layers/attention/value": "encoder.layer.{0}.attention.self.value",
        "layers/attention/out": "encoder.layer.{0}.attention.output.dense",
        "layers/attention_norm": "encoder.layer.{0}.attention.output.LayerNorm",
        "layers/mlp/wi": "encoder.layer.{0}.intermediate.dense",
        "layers/mlp/wo": "encoder.layer.{0}.output.dense",
        "layers/mlp_norm": "encoder.layer.{0}.output.LayerNorm",
        "pooler": "pooler.dense",
        "mlm/dense": "cls.predictions.transform.dense",
        "mlm/norm": "cls.predictions.transform.LayerNorm",
        "mlm/bias": "cls.predictions.bias",
        "nsp": "cls.seq_relationship",
    },
    transpose=True,
    copies={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=r"embeddings\.position_ids",
)
ERNIE = BERT._replace(
    name="ernie",
    stem="Ernie",
    prefix="ernie.",
    written={**BERT.written, "use_task_id": False},
)

ROFORMER = BERT._replace(
    name="roformer",
    stem="RoFormer",
    prefix="roformer.",
    classes={"ForMaskedLM": ("mlm",), "Model": ()},
    fields={
        **BERT.fields,
        "vocab_size": ("vocab_size", 50_000),
        "max_position_embeddings": ("max_length", 1536),
    },
    written={"rotary_value": False, "tie_word_embeddings": True},
    modules={
        ours: theirs
        for ours, theirs in BERT.modules.items()
        if ours not in ("embed/position", "pooler", "nsp")
    },
    buffers=r"encoder\.embed_positions\.weight",
    equal={"embedding_size": ("hidden_size", None)},
    fixed={"positions": "rope"},
    interleaved=True,
)
MODERNBERT = ModelType(
    name="modernbert",
    stem="ModernBert",
    prefix="model.",
    classes={"ForMaskedLM": ("mlm",), "Model": ()},
    fields={
        "vocab_size": ("vocab_size", 50_368),
        "num_hidden_layers": ("num_layers", 22),
        "num_attention_heads": ("num_heads", 12),
        "hidden_size": ("d_model", 768),
        "intermediate_size": ("d_ff", 1152),
        "max_position_embeddings": ("max_length", 8192),
        "mlp_dropout": ("dropout", 0.0),
        "norm_eps": ("norm_eps", 1e-5),
        "initializer_range": ("init_std", 0.02),
        "attention_dropout": ("dropout", 0.0),
        "embedding_dropout": ("dropout", 0.0),
    },
    activation="hidden_activation",
    activations=_GELUS,
    written={
        "attention_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "mlp_bias": False,
        "norm_bias": False,
        "tie_word_embeddings": True,
    },
    modules={
        "embed/token": "embeddings.tok_embeddings",
        "embed/norm": "embeddings.norm",
        _QKV: "layers.{0}.attn.Wqkv",
        "layers/attention/out": "layers.{0}.attn.Wo",
        "layers/attention_norm": "layers.{0}.attn_norm",
        ("layers/mlp/wi", "layers/mlp/gate"): "layers.{0}.mlp.Wi",
        "layers/mlp/wo": "layers.{0}.mlp.Wo",
        "layers/mlp_norm": "layers.{0}.mlp_norm",
        "final_norm": "final_norm",
        "mlm/dense": "head.dense",
        "mlm/norm": "head.norm",
        "mlm/bias": "decoder.bias",
    },
    transpose=True,
    copies={"decoder.weight": "embeddings.tok_embeddings.weight"},
    buffers=r"(.*\.)?rotary_emb\..*inv_freq",
    equal={"classifier_activation": ("hidden_activation", "gelu")},
    fixed={
        "positions": "rope",
        "norm": "pre",
        "gated": True,
        "biases": False,
        "num_token_types": 0,
    },
    attention=ATTENTION,
    ids={
        "bos_token_id": "cls",
        "cls_token_id": "cls",
        "eos_token_id": "sep",
        "sep_token_id": "sep",
        "pad_token_id": "pad",
    },
)

_GPT_FIELDS = {
    "vocab_size": ("vocab_size", 50_257),
    "n_layer": ("num_layers", 12),
    "n_head": ("num_heads", 12),
    "n_embd": ("d_model", 768),
    "n_positions": ("max_length", 1024),
    "resid_pdrop": ("dropout", 0.1),
    "layer_norm_epsilon": ("norm_eps", 1e-5),
    "initializer_range": ("init_std", 0.02),
    "embd_pdrop": ("dropout", 0.1),
    "attn_pdrop": ("dropout", 0.1),
}
_GPT_LAYERS = {
    "layers/attention_norm": "h.{0}.ln_1",
    _QKV: "h.{0}.attn.c_attn",
    "layers/attention/out": "h.{0}.attn.c_proj",
    "layers/mlp_norm": "h.{0}.ln_2",
    "layers/mlp/wi": "h.{0}.mlp.c_fc",
    "layers/mlp/wo": "h.{0}.mlp.c_proj",
}
GPT2 = ModelType(
    name="gpt2",
    stem="GPT2",
    prefix="transformer.",
    decoder=True,
    classes={"LMHeadModel": ()},
    fields={**_GPT_FIELDS, "n_inner": ("d_ff", 0)},  # 0: 4 × d_model
    activation="activation_function",
    activations={"gelu_new": "gelu_tanh", **_GELUS},  # the first one is the default
    written={"tie_word_embeddings": True},
    own={"one_matrix": False, "position_std": 0.01, "scale_residual": True},
    modules={
        "embed/token": "wte",
        "embed/position": "wpe",
        **_GPT_LAYERS,
        "final_norm": "ln_f",
    },
    transpose=False,
    copies={"lm_head.weight": "wte.weight"},  # transformers does not write it
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask
)
GPT1 = GPT2._replace(
    name="openai-gpt",
    stem="OpenAIGPT",
    fields={
        **_GPT_FIELDS,
        "vocab_size": ("vocab_size", 40_478),
        "n_positions": ("max_length", 512),
    },
    activation="afn",
    activations={"gelu": "gelu_tanh", "relu": "relu"},  # its "gelu" is by tanh
    own={"one_matrix": True, "position_std": 0.02, "scale_residual": False},
    modules={
        "embed/token": "tokens_embed",
        "embed/position": "positions_embed",
        **_GPT_LAYERS,
    },
    copies={"lm_head.weight": "tokens_embed.weight"},
)
MODEL_TYPES = {
    each.name: each for each in (BERT, ERNIE, ROFORMER, MODERNBERT, GPT2, GPT1)
}


def model_type_in(options: ConfigJson) -> ModelType:
    """The `ModelType` of the field model_type or, without it, of architectures."""
    kind = options.values.get("model_type")
    if kind is None:
        names = options.values.get("architectures")
        name = str(names[0]) if isinstance(names, list) and names else ""
        stem = re.sub(r"(For[A-Z]|LMHead|DoubleHeads|Model).*", "", name)
        kinds = {each.stem: each.name for each in MODEL_TYPES.values()}
        kind = kinds.get(stem, name or None)
    if kind is None:
        raise UserError(f"{options.path} names no model_type: no model's config")
    if kind not in [*MODEL_TYPES]:  # of any type, as a file has it
        known = instead(kind, [*MODEL_TYPES, "ELMo"])
        raise UserError(f"{options.path}: model_type {kind!r} is not read: {known}")
    return MODEL_TYPES[kind]


def check_config(options: ConfigJson) -> None:
    """Compare all keys with the table."""
    kind = model_type_in(options)
    read = {*kind.fields, kind.activation, *kind.equal, *kind.attention}
    read |= {"is_decoder"} if kind.decoder else set()
    for name, (ours, default) in kind.fields.items():
        first = next(n for n, (o, _) in kind.fields.items() if o == ours)
        values = [options.number(n, default) for n in (first, name)]
        if values[0] != values[1]:
            note(f"{options.path.name}: {name} = {values[1]} is read as {first}")
    check(options.path, options.values, "config.json", read)
    path = options.path.with_name("generation_config.json")
    if kind.decoder and path.is_file():
        check(path, read_json(path))


def model_type_of(config: ModelConfig) -> ModelType:
    """The type of a config: a BERT with ReLU is an ERNIE, a post-norm GPT a GPT-1."""
    match config:
        case BertConfig(layout=None):
            names = "positions", "norm", "gated", "biases", "num_token_types", "window"
            said = ", ".join(f"{name} = {getattr(config, name)}" for name in names)
            raise UserError(
                f"no other program loads a model of {said}: the layouts that are "
                "written are BERT's, RoFormer's and ModernBERT's; export --to "
                "stablehlo writes any"
            )
        case BertConfig(layout="bert"):
            return ERNIE if config.activation == "relu" else BERT
        case BertConfig():
            assert config.layout
            return MODEL_TYPES[config.layout]
        case GptConfig():
            return GPT2 if config.norm == "pre" else GPT1
    raise UserError("transformers has no ELMo: export --to elmo")
