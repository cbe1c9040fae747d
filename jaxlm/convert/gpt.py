"""GPT-1 and GPT-2 as transformers has them: config.json and the names of tensors.

Kernels are inputs × outputs there as here, and query, key and value are joined. GPT-1's
one matrix of tokens and positions (openai/finetune-transformer-lm) is two tables in a
file; only training treats it as one.
"""

from typing import Any

from jaxlm.config.model import GptConfig
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.rules import Rule, module_rules
from jaxlm.types import UserError

# Their defaults are GPT-2's.
FIELDS = {
    "vocab_size": ("vocab_size", 50_257),
    "num_layers": ("n_layer", 12),
    "num_heads": ("n_head", 12),
    "d_model": ("n_embd", 768),
    "max_length": ("n_positions", 1024),
    "dropout": ("resid_pdrop", 0.1),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
    "init_std": ("initializer_range", 0.02),
}
_GPT1_DEFAULTS = {"vocab_size": 40_478, "n_positions": 512}
# Fields that transformers has no word for.
_OWN = ("one_matrix", "position_std", "scale_residual")
_GPT2_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu_erf": "gelu", "relu": "relu"}
# transformers' OpenAIGPT computes "gelu" by tanh.
_GPT1_ACTIVATIONS = {"gelu_tanh": "gelu", "relu": "relu"}

_TABLES = {"pre": ("wte", "wpe"), "post": ("tokens_embed", "positions_embed")}
HEADS: tuple[str, ...] = ()  # its head is its token table
BUFFERS = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, in old files


def rules(config: GptConfig, parts: set[str]) -> list[Rule]:
    """Ours ↔ theirs, without a prefix."""
    token, position = _TABLES[config.norm]
    joined = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
    names = {
        "embed/token": token,
        "embed/position": position,
        "layers/attention_norm": "h.{0}.ln_1",
        joined: "h.{0}.attn.c_attn",
        "layers/attention/out": "h.{0}.attn.c_proj",
        "layers/mlp_norm": "h.{0}.ln_2",
        "layers/mlp/wi": "h.{0}.mlp.c_fc",
        "layers/mlp/wo": "h.{0}.mlp.c_proj",
        **({"final_norm": "ln_f"} if config.norm == "pre" else {}),
    }
    return module_rules(names, transpose=False, vocab_size=config.vocab_size)


def copies(config: GptConfig) -> dict[str, str]:
    """The head is the token table; transformers does not write it."""
    return {"lm_head.weight": f"{_TABLES[config.norm][0]}.weight"}


def part_of(name: str) -> None:
    """None: a decoder has no optional parts."""


def canonical(name: str) -> str:
    """A name in any file → that of `rules`."""
    return name.removeprefix("transformer.")


def model_type(config: GptConfig) -> str:
    """GPT-2 norms before each part, GPT-1 after it."""
    return "gpt2" if config.norm == "pre" else "openai-gpt"


def architecture(config: GptConfig, parts: set[str]) -> tuple[str, str]:
    """(end of the class's name, prefix)."""
    return "LMHeadModel", "transformer."


def to_options(config: GptConfig, end: int | None) -> dict[str, Any]:
    """The content of config.json; nothing is left to a default.

    `end` is the id of the token that ends a document and begins a text.

    Raises:
        UserError: transformers has no such model.
    """
    gpt2 = config.norm == "pre"
    names = _GPT2_ACTIVATIONS if gpt2 else _GPT1_ACTIVATIONS
    if config.activation not in names:
        raise UserError(
            f"model.activation = {config.activation}: transformers' GPT-1 has "
            f"{' and '.join(names)}"
        )
    if not gpt2 and config.d_ff != 4 * config.d_model:
        raise UserError(
            f"model.d_ff = {config.d_ff}: transformers' GPT-1 has 4 × d_model = "
            f"{4 * config.d_model}"
        )
    act = names[config.activation]
    return {
        "model_type": model_type(config),
        **{theirs: getattr(config, ours) for ours, (theirs, _) in FIELDS.items()},
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        **({"n_inner": config.d_ff} if gpt2 else {}),
        "activation_function" if gpt2 else "afn": act,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
        "jaxlm": {name: getattr(config, name) for name in _OWN},
    }


def from_options(options: ConfigJson, parts: set[str]) -> GptConfig:
    """The config that a config.json describes.

    Raises:
        UserError: it asks for what our decoder does not do.
    """
    options.must_be(
        tie_word_embeddings=True,
        scale_attn_weights=True,
        add_cross_attention=False,
        scale_attn_by_inverse_layer_idx=False,
    )
    gpt2 = options.values["model_type"] == "gpt2"
    fields = FIELDS
    if not gpt2:
        fields = {o: (t, _GPT1_DEFAULTS.get(t, d)) for o, (t, d) in FIELDS.items()}
    shape = options.fields(fields)
    width = 4 * shape["d_model"]
    if gpt2:
        width = options.fields({"d_ff": ("n_inner", width)})["d_ff"]
        known = {theirs: ours for ours, theirs in _GPT2_ACTIVATIONS.items()}
        known["gelu_pytorch_tanh"] = "gelu_tanh"
        activation = options.choice("activation_function", "gelu_new", known)
        own: dict[str, Any] = {"one_matrix": False}
    else:
        known = {theirs: ours for ours, theirs in _GPT1_ACTIVATIONS.items()}
        activation = options.choice("afn", "gelu", known)
        own = {"one_matrix": True, "position_std": 0.02, "scale_residual": False}
    said = options.get("jaxlm", {})
    own |= {name: said[name] for name in _OWN if name in said}
    norm: Any = "pre" if gpt2 else "post"
    return GptConfig(norm=norm, d_ff=width, activation=activation, **shape, **own)
