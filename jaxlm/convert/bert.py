"""BERT and ERNIE as transformers has them: config.json and the names of tensors.

Names are those of transformers' `BertForPreTraining`; an `Ernie…` has the same under
another prefix. A model that ends in a head has its encoder under "bert." or "ernie.",
one that does not has no prefix. Torch's Linear keeps outputs × inputs.
"""

from __future__ import annotations

from typing import Any

from jaxlm.config.model import BertConfig
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.rules import Rule, dense, norm, table
from jaxlm.types import UserError

ACTIVATIONS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
_THEIRS = {"gelu": "gelu_erf", "gelu_new": "gelu_tanh", "relu": "relu"}
_THEIRS |= {"gelu_pytorch_tanh": "gelu_tanh"}

# What may be above the encoder, and what of it a file may lack: all of it or nothing.
PARTS = ("pooler", "mlm", "nsp")
HEADS = ("mlm", "nsp")
# No parameters; in old files.
BUFFERS = r"embeddings\.position_ids"
PREFIXES = ("bert.", "ernie.")


def rules(config: BertConfig, parts: set[str]) -> list[Rule]:
    """Reference ↔ theirs, without a prefix, for a model that has certain parts."""
    at, block = "encoder.layer.{0}.", "layers/"
    attention = [
        dense(f"{block}attention/{name}", f"{at}attention.self.{name}", transpose=True)
        for name in ("query", "key", "value")
    ]
    out = f"{at}attention.output"
    body = [
        table("embed/token", "embeddings.word_embeddings"),
        table("embed/position", "embeddings.position_embeddings"),
        table("embed/token_type", "embeddings.token_type_embeddings"),
        norm("embed/norm", "embeddings.LayerNorm"),
        *attention,
        dense(f"{block}attention/out", f"{out}.dense", inputs=2, transpose=True),
        norm(f"{block}attention_norm", f"{out}.LayerNorm"),
        dense(f"{block}mlp/wi", f"{at}intermediate.dense", transpose=True),
        dense(f"{block}mlp/wo", f"{at}output.dense", transpose=True),
        norm(f"{block}mlp_norm", f"{at}output.LayerNorm"),
    ]
    heads = {
        "pooler": [dense("pooler", "pooler.dense", transpose=True)],
        "mlm": [
            dense("mlm/dense", "cls.predictions.transform.dense", transpose=True),
            norm("mlm/norm", "cls.predictions.transform.LayerNorm"),
            [Rule(("mlm/bias",), "cls.predictions.bias")],
        ],
        "nsp": [dense("nsp", "cls.seq_relationship", transpose=True)],
    }
    groups = body + [g for head in PARTS if head in parts for g in heads[head]]
    return [rule for group in groups for rule in group]


def copies(config: BertConfig) -> dict[str, str]:
    """Tensor → the one that it is tied to."""
    return {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def group_of(name: str) -> str | None:
    """Which of `PARTS` a tensor belongs to."""
    heads = {"pooler.": "pooler", "cls.predictions.": "mlm", "cls.seq_": "nsp"}
    return next((g for start, g in heads.items() if name.startswith(start)), None)


def canonical(name: str) -> str:
    """A name in any file → that of `rules`: no prefix, and TensorFlow's old words."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    if "LayerNorm" in name:
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


def written(config: BertConfig, groups: set[str]) -> tuple[str, str]:
    """(class of transformers, prefix of the encoder) for a model with such heads."""
    kind = model_type(config)
    name = {"bert": "Bert", "ernie": "Ernie"}[kind]
    if "mlm" not in groups:
        return f"{name}Model", ""
    both = {"nsp", "pooler"} <= groups
    return f"{name}For{'PreTraining' if both else 'MaskedLM'}", f"{kind}."


def model_type(config: BertConfig) -> str:
    """ERNIE 1.0 is the one with ReLU."""
    return "ernie" if config.activation == "relu" else "bert"


def to_options(config: BertConfig, end: int | None) -> dict[str, Any]:
    """What config.json says of the model; nothing is left to a default."""
    return {
        "model_type": model_type(config),
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.num_token_types,
        "hidden_act": ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "initializer_range": config.init_std,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **({"use_task_id": False} if model_type(config) == "ernie" else {}),
    }


def from_options(options: ConfigJson, groups: set[str]) -> BertConfig:
    """The config that a config.json describes.

    Args:
        options: its content; absent ones have transformers' defaults.
        groups: the heads that its tensors have.

    Raises:
        UserError: it asks for what our encoder does not do.
    """
    options.must_be("position_embedding_type", "absolute")
    for name in ("use_task_id", "is_decoder", "add_cross_attention"):
        options.must_be(name, False)
    options.must_be("tie_word_embeddings", True)
    act = options.text("hidden_act", "gelu")
    if act not in _THEIRS:
        raise UserError(
            f"{options.path}: hidden_act = {act!r} is none of {', '.join(_THEIRS)}"
        )
    activation: Any = _THEIRS[act]
    return BertConfig(
        vocab_size=options.integer("vocab_size", 30_522),
        num_layers=options.integer("num_hidden_layers", 12),
        num_heads=options.integer("num_attention_heads", 12),
        d_model=options.integer("hidden_size", 768),
        d_ff=options.integer("intermediate_size", 3072),
        max_length=options.integer("max_position_embeddings", 512),
        num_token_types=options.integer("type_vocab_size", 2),
        dropout=options.number("hidden_dropout_prob", 0.1),
        activation=activation,
        norm_eps=options.number("layer_norm_eps", 1e-12),
        init_std=options.number("initializer_range", 0.02),
        nsp="pooler" in groups or "nsp" in groups,
    )
