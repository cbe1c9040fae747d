"""transformers' names for our models: fields of config.json and names of tensors.

A `ModelType` has a table for each, which is used in both directions. Modules have the
names of transformers' classes without the prefix of an encoder below a head ("bert.").
BERT's kernels are outputs × inputs there, as in torch's Linear; a GPT's are inputs ×
outputs as here, with query, key and value joined. GPT-1's single matrix of tokens and
positions (openai/finetune-transformer-lm) is two tables in a file; only training treats
it as one matrix.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.config.checks import instead
from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.config.published import check
from jaxlm.convert.rules import Names, Rule, module_rules
from jaxlm.files import read_json
from jaxlm.types import UserError, note

HEADS = ("mlm", "nsp")
# How the tensors begin that a file has or lacks as a whole → the part of our tree.
_PARTS = {"pooler.": "pooler", "cls.predictions.": "mlm", "cls.seq_": "nsp"}


def part_of(name: str) -> str | None:
    """The optional part of a BERT that a tensor belongs to, or None."""
    return next((_PARTS[each] for each in _PARTS if name.startswith(each)), None)


def canonical(name: str) -> str:
    """The name of a tensor in our tables, from its name in a file."""
    name = re.sub(r"^(bert|ernie|transformer)\.", "", name)
    if "LayerNorm" in name:  # TensorFlow's words
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


class ConfigJson(NamedTuple):
    """The content of a config.json."""

    path: Path
    values: dict[str, Any]

    def get(self, name: str, default: Any) -> Any:
        """The value of a field; `default` if it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: int | float) -> int | float:
        """A field: a positive integer or, if `default` is a float, a number ≥ 0."""
        value = self.get(name, None)
        if value is None:
            return default
        kind, least, what = (int, 1, "positive integer")
        if isinstance(default, float):
            kind, least, what = ((int, float), 0, "number above 0")
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or not least <= value < 2**63:
            raise UserError(f"{self.path}: {name} = {value!r} is not a {what}")
        return type(default)(value)

    def model_type(self) -> "ModelType":
        """The `ModelType` of the field model_type or, without it, of architectures."""
        kind = self.values.get("model_type")
        if kind is None:
            names = self.values.get("architectures")
            name = str(names[0]) if isinstance(names, list) and names else ""
            stem = re.sub(r"(For|LMHead|DoubleHeads|Model).*", "", name)
            kinds = {each.stem: each.name for each in MODEL_TYPES.values()}
            kind = kinds.get(stem, name or None)
        if kind is None:
            raise UserError(f"{self.path} names no model_type: no model's config")
        if kind not in [*MODEL_TYPES]:  # of any type, as a file has it
            known = instead(kind, [*MODEL_TYPES, "ELMo"])
            raise UserError(f"{self.path}: model_type {kind!r} is not read: {known}")
        return MODEL_TYPES[kind]

    def check(self) -> None:
        """Compare all keys with the table."""
        kind = self.model_type()
        read = {*kind.fields, kind.activation}
        read |= {"is_decoder"} if kind.decoder else set()
        for name, (ours, default) in kind.fields.items():
            first = next(n for n, (o, _) in kind.fields.items() if o == ours)
            values = [self.number(n, default) for n in (first, name)]
            if values[0] != values[1]:
                note(f"{self.path.name}: {name} = {values[1]} is read as {first}")
        check(self.path, self.values, "config.json", read)
        path = self.path.with_name("generation_config.json")
        if kind.decoder and path.is_file():
            check(path, read_json(path))


@dataclass(frozen=True, kw_only=True)
class ModelType:
    """A `model_type` of transformers, with tables of names and fields."""

    name: str
    stem: str  # of its classes
    prefix: str  # of the encoder's tensors, below a head
    decoder: bool = False
    # End of the class's name, and the parts that a model of this class must have.
    classes: Mapping[str, Collection[str]]
    # Their field → our field, and its value where theirs is absent. Of two fields for
    # one of ours the first is read.
    fields: Mapping[str, tuple[str, int | float]]
    activation: str  # the field
    activations: Mapping[str, str]  # the first one is the default
    written: Mapping[str, Any]  # what a file says, too
    # Our fields that transformers has no word for, with their values in its models.
    own: Mapping[str, Any]
    modules: Names  # ours → theirs
    transpose: bool  # kernels are outputs × inputs
    copies: Mapping[str, str]  # a tensor → the one that it is tied to
    buffers: str  # what in old files is no parameter, as a regular expression

    def rules(self, config: ModelConfig, parts: Collection[str]) -> list[Rule]:
        """The rules leaves ↔ tensors for a model that has these parts of our tree."""
        names = {}
        for ours, theirs in self.modules.items():
            first = ours if isinstance(ours, str) else ours[0]
            if first.partition("/")[0] in parts:
                names[ours] = theirs
        transpose, size = self.transpose, config.vocab_size
        return module_rules(names, transpose=transpose, vocab_size=size)

    def to_json(self, config: Any, ends: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json; nothing is left to a default.

        `ends` are the ids of a decoder's tokens that begin and end a text.
        """
        words = {ours: theirs for theirs, ours in [*self.activations.items()][::-1]}
        if config.activation not in words:
            known = " and ".join(self.activations.values())
            this = f"model.activation = {config.activation}"
            raise UserError(f"{this}: transformers' {self.stem} has {known}")
        if self.name == "openai-gpt" and config.d_ff != 4 * config.d_model:
            usual = f"4 × d_model = {4 * config.d_model}"
            raise UserError(f"model.d_ff = {config.d_ff}: a GPT-1 there has {usual}")
        own = {name: getattr(config, name) for name in self.own}
        return {
            "model_type": self.name,
            **{name: getattr(config, ours) for name, (ours, _) in self.fields.items()},
            self.activation: words[config.activation],
            **(ends if self.decoder else {}),
            **self.written,
            **({"jaxlm": own} if own else {}),
        }

    def from_json(self, options: ConfigJson, parts: Collection[str]) -> ModelConfig:
        """The config that a config.json describes, for a model with these parts.

        A UserError names a field whose value our model does not support.
        """
        known = self.activations
        word = options.get(self.activation, next(iter(known)))
        if word not in [*known]:
            this = f"{self.activation} = {word!r} is none of {', '.join(known)}"
            raise UserError(f"{options.path}: {this}")
        values: dict[str, Any] = {"activation": known[word]}
        for name, (ours, default) in self.fields.items():
            values.setdefault(ours, options.number(name, default))
        if not self.decoder:
            return BertConfig(nsp=not {"pooler", "nsp"}.isdisjoint(parts), **values)
        if not values.get("d_ff"):
            values["d_ff"] = 4 * values["d_model"]
        ours = options.get("jaxlm", {})
        if not isinstance(ours, dict):
            raise UserError(f"{options.path}: jaxlm = {ours!r} is not an object")
        own = {**self.own, **ours}
        values |= {name: own[name] for name in self.own}
        return GptConfig(norm="pre" if self.name == "gpt2" else "post", **values)


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
    activations={
        "gelu": "gelu_erf",
        "gelu_new": "gelu_tanh",
        "relu": "relu",
        "gelu_pytorch_tanh": "gelu_tanh",
    },
    written={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    own={},
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
ERNIE = dataclasses.replace(
    BERT,
    name="ernie",
    stem="Ernie",
    prefix="ernie.",
    written={**BERT.written, "use_task_id": False},
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
    tuple(f"layers/attention/{name}" for name in ("query", "key", "value")): (
        "h.{0}.attn.c_attn"
    ),
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
    activations={
        "gelu_new": "gelu_tanh",
        "gelu": "gelu_erf",
        "relu": "relu",
        "gelu_pytorch_tanh": "gelu_tanh",
    },
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
GPT1 = dataclasses.replace(
    GPT2,
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
MODEL_TYPES = {each.name: each for each in (BERT, ERNIE, GPT2, GPT1)}


def model_type_of(config: ModelConfig) -> ModelType:
    """The type of a config: a BERT with ReLU is an ERNIE, a post-norm GPT a GPT-1."""
    match config:
        case BertConfig():
            return ERNIE if config.activation == "relu" else BERT
        case GptConfig():
            return GPT2 if config.norm == "pre" else GPT1
    raise UserError("transformers has no ELMo: export --to elmo")
