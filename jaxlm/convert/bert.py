"""BERT and ERNIE as transformers has them: config.json and the names of tensors.

Names are those of transformers' `BertForPreTraining`; `Ernie…` has the same ones. A
model that ends in a head has its encoder under "bert." or "ernie."; one that does not
has no prefix. Torch's Linear keeps outputs × inputs.
"""

from typing import Any

from jaxlm.config.model import BertConfig
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.rules import Rule, module_rules

FIELDS = {
    "vocab_size": ("vocab_size", 30_522),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "d_model": ("hidden_size", 768),
    "d_ff": ("intermediate_size", 3072),
    "max_length": ("max_position_embeddings", 512),
    "num_token_types": ("type_vocab_size", 2),
    "dropout": ("hidden_dropout_prob", 0.1),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "init_std": ("initializer_range", 0.02),
}
_ACTIVATIONS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}

_LAYER = "encoder.layer.{0}"
ENCODER = {
    "embed/token": "embeddings.word_embeddings",
    "embed/position": "embeddings.position_embeddings",
    "embed/token_type": "embeddings.token_type_embeddings",
    "embed/norm": "embeddings.LayerNorm",
    "layers/attention/query": f"{_LAYER}.attention.self.query",
    "layers/attention/key": f"{_LAYER}.attention.self.key",
    "layers/attention/value": f"{_LAYER}.attention.self.value",
    "layers/attention/out": f"{_LAYER}.attention.output.dense",
    "layers/attention_norm": f"{_LAYER}.attention.output.LayerNorm",
    "layers/mlp/wi": f"{_LAYER}.intermediate.dense",
    "layers/mlp/wo": f"{_LAYER}.output.dense",
    "layers/mlp_norm": f"{_LAYER}.output.LayerNorm",
}
# Parts above the encoder, each whole or absent.
PARTS = {
    "pooler": {"pooler": "pooler.dense"},
    "mlm": {
        "mlm/dense": "cls.predictions.transform.dense",
        "mlm/norm": "cls.predictions.transform.LayerNorm",
        "mlm/bias": "cls.predictions.bias",
    },
    "nsp": {"nsp": "cls.seq_relationship"},
}
HEADS = ("mlm", "nsp")
BUFFERS = r"embeddings\.position_ids"  # no parameters; in old files


def rules(config: BertConfig, parts: set[str]) -> list[Rule]:
    """Ours ↔ theirs, without a prefix, for a model that has certain parts."""
    names = dict(ENCODER)
    for part, more in PARTS.items():
        names |= more if part in parts else {}
    return module_rules(names, transpose=True, vocab_size=config.vocab_size)


def copies(config: BertConfig) -> dict[str, str]:
    """A tensor → the one that it is tied to."""
    return {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def part_of(name: str) -> str | None:
    """Which of `PARTS` a tensor belongs to."""
    starts = {"pooler.": "pooler", "cls.predictions.": "mlm", "cls.seq_": "nsp"}
    return next((starts[each] for each in starts if name.startswith(each)), None)


def canonical(name: str) -> str:
    """A name in any file → that of `rules`: no prefix, no words of TensorFlow."""
    name = name.removeprefix("bert.").removeprefix("ernie.")
    if "LayerNorm" in name:
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


def model_type(config: BertConfig) -> str:
    """ERNIE 1.0 is the one with ReLU."""
    return "ernie" if config.activation == "relu" else "bert"


def architecture(config: BertConfig, parts: set[str]) -> tuple[str, str]:
    """(end of the class's name, prefix of the encoder) for a model with such parts."""
    if "mlm" not in parts:
        return "Model", ""
    end = "ForPreTraining" if {"nsp", "pooler"} <= parts else "ForMaskedLM"
    return end, f"{model_type(config)}."


def to_options(config: BertConfig, end: int | None) -> dict[str, Any]:
    """The content of config.json; nothing is left to a default."""
    return {
        "model_type": model_type(config),
        **{theirs: getattr(config, ours) for ours, (theirs, _) in FIELDS.items()},
        "attention_probs_dropout_prob": config.dropout,
        "hidden_act": _ACTIVATIONS[config.activation],
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **({"use_task_id": False} if model_type(config) == "ernie" else {}),
    }


def from_options(options: ConfigJson, parts: set[str]) -> BertConfig:
    """The config that a config.json describes, for a model that has `parts`.

    Raises:
        UserError: it asks for what our encoder does not do.
    """
    options.must_be(
        position_embedding_type="absolute",
        use_task_id=False,
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    known = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    known["gelu_pytorch_tanh"] = "gelu_tanh"
    return BertConfig(
        activation=options.choice("hidden_act", "gelu", known),
        nsp="pooler" in parts or "nsp" in parts,
        **options.fields(FIELDS),
    )
