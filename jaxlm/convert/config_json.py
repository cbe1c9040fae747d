"""The content of a config.json ↔ our config, by the tables of a `ModelType`.

Next: `model_types.py`, which has the tables.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.convert.rules import Names, Rule, module_rules
from jaxlm.types import UserError


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


class ModelType(NamedTuple):
    """A `model_type` of transformers, with tables of names and fields."""

    name: str
    stem: str  # of its classes
    prefix: str  # of the encoder's tensors, below a head
    # End of the class's name, and the parts that a model of this class must have.
    classes: Mapping[str, Collection[str]]
    # Their field → our field, and its value where theirs is absent. Of two fields for
    # one of ours the first is read.
    fields: Mapping[str, tuple[str, int | float]]
    activation: str  # the field
    activations: Mapping[str, str]  # the first one is the default
    written: Mapping[str, Any]  # what a file says, too
    modules: Names  # ours → theirs
    transpose: bool  # kernels are outputs × inputs
    copies: Mapping[str, str]  # a tensor → the one that it is tied to
    buffers: str  # what in old files is no parameter, as a regular expression
    # Our fields that transformers has no word for, with their values in its models.
    own: Mapping[str, Any] = {}
    decoder: bool = False
    # A field → the one that it has to be equal to, and its value where it is absent;
    # None: that of the other.
    equal: Mapping[str, tuple[str, str | None]] = {}
    fixed: Mapping[str, Any] = {}  # our fields that are alike in all of its models
    # Their fields of layers with and without a window, which are read together.
    attention: Collection[str] = ()
    # Their field → the special token.
    ids: Mapping[str, str] = {"pad_token_id": "pad"}
    interleaved: bool = False  # rope turns neighbouring channels

    @property
    def parts(self) -> set[str]:
        """The parts of our tree that its models may have."""
        every = (x if isinstance(x, str) else x[0] for x in self.modules)
        return {name.partition("/")[0] for name in every}

    def rules(self, config: ModelConfig, parts: Mapping[str, Any]) -> list[Rule]:
        """The rules leaves ↔ tensors for a model that has these parts of our tree."""

        def has(ours: str | tuple[str, ...]) -> bool:
            part, _, leaf = (ours if isinstance(ours, str) else ours[0]).partition("/")
            # A ModernBERT's head of a task has all of "mlm" but the bias.
            return part in parts and (part != "mlm" or leaf in parts[part])

        rules = module_rules(
            {ours: theirs for ours, theirs in self.modules.items() if has(ours)},
            transpose=self.transpose,
            vocab_size=config.vocab_size,
            biases=getattr(config, "biases", True),
        )
        turned = re.compile("layers/attention/(query|key)/")
        bare = ("layers/attention_norm/scale",)
        return [
            each._replace(
                interleaved=self.interleaved and bool(turned.match(each.ours[0])),
                first=int(bool(self.attention) and each.ours == bare),
            )
            for each in rules
        ]

    def sines(self, config: Any) -> dict[str, np.ndarray]:
        """The tensor of a RoFormer that is no parameter: sines and cosines."""
        if not self.interleaved:
            return {}
        width = config.d_model // config.num_heads
        speeds = 1 / 10_000 ** (np.arange(0, width, 2) / width)
        angles = np.arange(config.max_length)[:, None] * speeds
        both = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return {"encoder.embed_positions.weight": both.astype(np.float32)}

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
        found = {
            "model_type": self.name,
            **{name: getattr(config, ours) for name, (ours, _) in self.fields.items()},
            self.activation: words[config.activation],
            **(ends if self.decoder else {}),
            **self.written,
            **({"jaxlm": own} if own else {}),
            **(_attention_to_json(config) if self.attention else {}),
        }
        return found | {name: found[other] for name, (other, _) in self.equal.items()}

    def from_json(self, options: ConfigJson, parts: Collection[str]) -> ModelConfig:
        """The config that a config.json describes, for a model with these parts.

        A UserError names a field whose value our model does not support.
        """
        known = self.activations
        word = options.get(self.activation, next(iter(known)))
        if word not in [*known]:
            this = f"{self.activation} = {word!r} is none of {', '.join(known)}"
            raise UserError(f"{options.path}: {this}")
        values: dict[str, Any] = {"activation": known[word], **self.fixed}
        for name, (ours, default) in self.fields.items():
            values.setdefault(ours, options.number(name, default))
        for name, (other, default) in self.equal.items():
            usual = word if other == self.activation else options.get(other, None)
            if (found := options.get(name, default or usual)) != usual:
                this = f"{name} = {found!r} is not {other} = {usual!r}"
                raise UserError(f"{options.path}: {this}: jaxlm has one for both")
        if self.attention:
            values |= _attention_from_json(options, values["num_layers"])
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


# A type of layers in transformers → our base of rope, its old name there, its default.
_ROPES = {
    "full_attention": ("rope_base", "global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_base", "local_rope_theta", 10_000.0),
}
ATTENTION = (
    "layer_types",
    "local_attention",
    "global_attn_every_n_layers",
    "rope_parameters",
    *(old for _, old, _ in _ROPES.values()),
)


def _attention_to_json(config: BertConfig) -> dict[str, Any]:
    """The fields of ModernBERT's layers, in the words of old and new versions."""
    every = config.global_every if config.window else 1
    found: dict[str, Any] = {
        "local_attention": config.window or 128,
        "global_attn_every_n_layers": every,
        "layer_types": _layer_types(config.num_layers, every),
        "rope_parameters": {},
    }
    for kind, (ours, old, _) in _ROPES.items():
        found[old] = base = getattr(config, ours)
        found["rope_parameters"][kind] = {"rope_type": "default", "rope_theta": base}
    return found


def _layer_types(layers: int, every: int) -> list[str]:
    whole, local = _ROPES
    return [local if i % every else whole for i in range(layers)]


def _attention_from_json(options: ConfigJson, layers: int) -> dict[str, Any]:
    """What ModernBERT's layers see, and the bases of their rope.

    New versions of transformers write a type for each layer and parameters of rope for
    each type; they prefer these to the words of old ones.
    """

    def refused(name: str, value: Any, known: str) -> UserError:
        this = f"{name} = {json.dumps(value)[:80]} is not supported"
        return UserError(f"{options.path}: {this}: jaxlm has {known}")

    window = options.number("local_attention", 128)
    if window % 2:
        raise refused("local_attention", window, "an even number, half on each side")
    every = int(options.number("global_attn_every_n_layers", 3))
    types = options.get("layer_types", None)
    if types is not None:
        fits = [every, *range(1, layers + 1)]
        fits = [n for n in fits if _layer_types(layers, n) == types]
        if not fits:
            known = "every so-manieth layer global, from the first on"
            raise refused("layer_types", types, known)
        every = fits[0]
    # A window that no layer has is none.
    found: dict[str, Any] = {"window": 0}
    if every > 1:
        found = {"window": window, "global_every": every}
    ropes = options.get("rope_parameters", {})
    if not isinstance(ropes, dict) or ropes.keys() - _ROPES:
        raise refused("rope_parameters", ropes, f"those of {' and '.join(_ROPES)}")
    for kind, (ours, old, usual) in _ROPES.items():
        said = ropes.get(kind) or {}
        plain = isinstance(said, dict) and said.get("rope_type") in (None, "default")
        if not plain or said.keys() - {"rope_type", "rope_theta"}:
            raise refused(f"rope_parameters.{kind}", said, "rope_type default")
        base = options.number(old, usual)
        found[ours] = ConfigJson(options.path, said).number("rope_theta", base)
    return found
