"""GPT-1 and GPT-2 as transformers has them: config.json and the names of tensors.

Kernels are inputs × outputs there as here, and query, key and value are one. GPT-1's
one matrix of tokens and positions (openai/finetune-transformer-lm) is two tables in a
file; that it was one matters to training alone.
"""

from __future__ import annotations

from typing import Any

from jaxlm.config.model import GptConfig
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.rules import Rule, dense, norm, table
from jaxlm.types import UserError

HEADS: tuple[str, ...] = ()  # its head is its token table
BUFFERS = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, in old files
PREFIXES = ("transformer.",)
# In config.json what transformers has no word for.
OWN = ("one_matrix", "position_std", "scale_residual")

_GPT2_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu_erf": "gelu", "relu": "relu"}
# transformers' OpenAIGPT computes "gelu" by tanh.
_GPT1_ACTIVATIONS = {"gelu_tanh": "gelu", "relu": "relu"}


def rules(config: GptConfig, parts: set[str]) -> list[Rule]:
    """Reference ↔ theirs, without a prefix."""
    block, at = "layers/", "h.{0}."
    joined = [f"{block}attention/{name}" for name in ("query", "key", "value")]
    token, position = ("wte", "wpe")
    if config.norm == "post":
        token, position = ("tokens_embed", "positions_embed")
    groups = [
        table("embed/token", token, rows=config.vocab_size),
        table("embed/position", position),
        norm(f"{block}attention_norm", f"{at}ln_1"),
        dense(joined, f"{at}attn.c_attn", transpose=False),
        dense(f"{block}attention/out", f"{at}attn.c_proj", inputs=2, transpose=False),
        norm(f"{block}mlp_norm", f"{at}ln_2"),
        dense(f"{block}mlp/wi", f"{at}mlp.c_fc", transpose=False),
        dense(f"{block}mlp/wo", f"{at}mlp.c_proj", transpose=False),
        norm("final_norm", "ln_f") if config.norm == "pre" else [],
    ]
    return [rule for group in groups for rule in group]


def copies(config: GptConfig) -> dict[str, str]:
    """The head is the token table; transformers does not write it."""
    return {
        "lm_head.weight": f"{'wte' if config.norm == 'pre' else 'tokens_embed'}.weight"
    }


def group_of(name: str) -> None:
    """None: a decoder has no heads to lack."""


def canonical(name: str) -> str:
    """A name in any file → that of `rules`."""
    return name.removeprefix(PREFIXES[0])


def written(config: GptConfig, parts: set[str]) -> tuple[str, str]:
    """(class of transformers, prefix)."""
    kind = "GPT2LMHeadModel" if config.norm == "pre" else "OpenAIGPTLMHeadModel"
    return kind, PREFIXES[0]


def model_type(config: GptConfig) -> str:
    """As transformers calls it."""
    return "gpt2" if config.norm == "pre" else "openai-gpt"


def to_options(config: GptConfig, end: int | None) -> dict[str, Any]:
    """What config.json says of the model; nothing is left to a default.

    Args:
        config: ours.
        end: id of the token that ends a document and begins a text.

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
        "vocab_size": config.vocab_size,
        "n_positions": config.max_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        **({"n_inner": config.d_ff, "activation_function": act} if gpt2 else {}),
        **({} if gpt2 else {"afn": act}),
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "initializer_range": config.init_std,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
        "jaxlm": {name: getattr(config, name) for name in OWN},
    }


def from_options(options: ConfigJson, parts: set[str]) -> GptConfig:
    """The config that a config.json describes.

    Raises:
        UserError: it asks for what our decoder does not do.
    """
    gpt2 = options.values["model_type"] == "gpt2"
    options.must_be("tie_word_embeddings", True)
    options.must_be("scale_attn_weights", True)
    for name in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        options.must_be(name, False)
    name, default = ("activation_function", "gelu_new") if gpt2 else ("afn", "gelu")
    known = _GPT2_ACTIVATIONS if gpt2 else _GPT1_ACTIVATIONS
    theirs = {value: key for key, value in known.items()}
    if gpt2:
        theirs["gelu_pytorch_tanh"] = "gelu_tanh"
    act = options.text(name, default)
    if act not in theirs:
        raise UserError(
            f"{options.path}: {name} = {act!r} is none of {', '.join(theirs)}"
        )
    activation: Any = theirs[act]
    width = options.integer("n_embd", 768)
    own = options.values.get("jaxlm") or {}
    shape: dict[str, Any] = {"one_matrix": not gpt2}
    shape |= {name: own[name] for name in OWN if name in own}
    if not gpt2:
        shape = {"position_std": 0.02, "scale_residual": False, **shape}
    return GptConfig(
        vocab_size=options.integer("vocab_size", 50_257 if gpt2 else 40_478),
        num_layers=options.integer("n_layer", 12),
        num_heads=options.integer("n_head", 12),
        d_model=width,
        d_ff=options.integer("n_inner", 4 * width) if gpt2 else 4 * width,
        max_length=options.integer("n_positions", 1024 if gpt2 else 512),
        norm="pre" if gpt2 else "post",
        dropout=options.number("resid_pdrop", 0.1),
        activation=activation,
        norm_eps=options.number("layer_norm_epsilon", 1e-5),
        init_std=options.number("initializer_range", 0.02),
        **shape,
    )
