"""Remake tests/goldens/gpt*.npz: what transformers computes for weights of ours.

    python -m tools.goldens_gpt        # needs transformers and torch

Two cases: "gpt1" against OpenAIGPTLMHeadModel, "gpt2" against GPT2LMHeadModel. The
tables of `jaxlm/convert` put our weights into them, and so are tested by the results.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.config import GptConfig, gpt1, gpt2
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_types import GPT1, GPT2
from jaxlm.families import parameter_shapes
from jaxlm.tree import leaves, map_with_path
from tools.goldens import FOLDER

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "num_layers": 2,
    "num_heads": 2,
    "d_model": 16,
    "d_ff": 24,
    "max_length": 13,
}
# transformers' OpenAIGPTLMHeadModel has two tables, where the original has one matrix.
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
CASES = {"gpt1": gpt1(**SHAPE, one_matrix=False), "gpt2": gpt2("tiny", **SHAPE)}


def family(config: GptConfig) -> str:
    """The name of its case."""
    return "gpt2" if config.norm == "pre" else "gpt1"


def random_params(config: GptConfig, seed: int = 0, std: float = 0.2) -> Any:
    """Weights without a zero bias or a unit scale, so that a swapped leaf shows.

    The rows that pad the vocabulary are large: nothing may read them.
    """
    random = np.random.RandomState(seed)
    shapes, values = parameter_shapes(config), {}
    for path, leaf in leaves(shapes):
        value = random.standard_normal(leaf.shape).astype(np.float32) * std
        values[path] = value + path.endswith("scale")
    values["embed/token/table"][config.vocab_size :] = 100
    return map_with_path(lambda path, _: jnp.asarray(values[path]), shapes)


def random_tokens(config: GptConfig, batch: int, length: int, seed: int = 0) -> Any:
    """Ids [batch, length]."""
    return np.random.RandomState(seed).randint(0, config.vocab_size, (batch, length))


def tensors(config: GptConfig, params: Any) -> dict[str, np.ndarray]:
    """Reference (weights or gradients) by transformers' names, without their head."""
    source = from_params(config, params)
    return {f"transformer.{name}": source.read(name) for name in source.table.shapes}


def to_transformers(config: GptConfig, params: Any) -> Any:
    """An `OpenAIGPTLMHeadModel` or `GPT2LMHeadModel` that holds `params`."""
    import torch
    import transformers

    if family(config) == "gpt2":
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**GPT2.to_json(config, ENDS))
        )
    else:
        usual = dataclasses.replace(config, d_ff=4 * config.d_model)
        theirs = transformers.OpenAIGPTLMHeadModel(
            transformers.OpenAIGPTConfig(**GPT1.to_json(usual, ENDS))
        )
        for block in theirs.transformer.h:  # it has no setting for this
            block.mlp = type(block.mlp)(config.d_ff, theirs.config)
    state = theirs.state_dict()
    for name, value in tensors(config, params).items():
        state.pop(name).copy_(torch.tensor(value))
    state.pop("lm_head.weight")  # tied
    assert all(name.endswith(".bias") or "position_ids" in name for name in state)
    return theirs


def transformers_results(
    config: GptConfig, params: Any, tokens: np.ndarray, *, double: bool = False
) -> dict[str, Any]:
    """Hidden states, logits, loss of each next token, and gradients, by their names."""
    import torch

    theirs = to_transformers(config, params).eval()
    theirs = theirs.double() if double else theirs
    ids = torch.tensor(tokens)
    out = theirs(ids, labels=ids, output_hidden_states=True)
    out.loss.backward()
    results = {
        "hidden": torch.stack(out.hidden_states),
        "logits": out.logits,
        "loss": out.loss,
    }
    results = {name: x.detach().float().numpy() for name, x in results.items()}
    grads = {
        f"grads/{name}": p.grad.float().numpy() for name, p in theirs.named_parameters()
    }
    return {**results, **grads}


def main() -> None:
    """Write every golden file."""
    for name, config in CASES.items():
        tokens = random_tokens(config, 3, 11)
        results = transformers_results(
            config, random_params(config), tokens, double=True
        )
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **results)
        print(f"{path.name}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
