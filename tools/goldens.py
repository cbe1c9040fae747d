"""Remake tests/goldens/bert_*.npz: what transformers computes for weights of ours.

    python -m tools.goldens        # needs transformers and torch

Weights and batches come from numpy's frozen `RandomState`, so the files hold results
only. The tests and the step benchmark use the functions below to put the same weights
into transformers live.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.config import BertConfig
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_types import BERT, canonical
from jaxlm.convert.rules import TensorTable
from jaxlm.families import parameter_shapes
from jaxlm.tree import is_padded, leaves, map_with_path
from jaxlm.types import MlmBatch

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "goldens"
TINY = BertConfig(
    vocab_size=61, num_layers=2, num_heads=2, d_model=16, d_ff=24, max_length=13
)
ACTIVATIONS = ("gelu_erf", "gelu_tanh", "relu")


def random_params(config: BertConfig, seed: int = 0, std: float = 0.2) -> Any:
    """Weights without a zero bias or a unit scale, so that a swapped leaf shows."""
    random = np.random.RandomState(seed)

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        rows = config.vocab_size if is_padded(path) else shape[0]
        some = random.standard_normal((rows, *shape[1:])).astype(np.float32) * std
        more = [(0, shape[0] - rows), *[(0, 0)] * (len(shape) - 1)]
        return np.pad(some, more) + path.endswith("scale")

    shapes = parameter_shapes(config)
    values = {path: value(path, leaf.shape) for path, leaf in leaves(shapes)}
    return map_with_path(lambda path, _: jnp.asarray(values[path]), shapes)


def random_batch(
    config: BertConfig, *, batch: int, length: int, predictions: int, seed: int = 0
) -> MlmBatch:
    """Rows of two sentences with padding and with a varying number of targets.

    Id 0 pads and appears nowhere else: transformers gives its row no gradient as input.
    """
    random = np.random.RandomState(seed)
    real = random.randint(length * 2 // 3, length + 1, batch)
    real[0] = length
    chosen = random.randint(1, predictions + 1, batch)
    at = np.arange(length)
    positions = np.zeros((batch, predictions), np.int32)
    for row, (n, count) in enumerate(zip(real, chosen, strict=True)):
        positions[row, :count] = np.sort(random.permutation(n)[:count])
    weights = np.arange(predictions) < chosen[:, None]
    tokens = random.randint(1, config.vocab_size, (batch, length))
    return MlmBatch(
        tokens=jnp.asarray(tokens * (at < real[:, None])),
        token_types=jnp.asarray((at >= real[:, None] // 2).astype(np.int32)),
        mask=jnp.asarray(at < real[:, None]),
        predictions=jnp.asarray(positions),
        targets=jnp.asarray(random.randint(0, config.vocab_size, (batch, predictions))),
        weights=jnp.asarray(weights, jnp.float32),
        nsp_labels=jnp.asarray(random.randint(0, 2, batch)),
        nsp_weights=jnp.ones(batch),
    )


def to_transformers(config: BertConfig, params: Any, family: str = "Bert") -> Any:
    """A `BertForPreTraining` that holds `params`, or an `ErnieForPreTraining`."""
    import torch
    import transformers

    options = BERT.to_json(config, {})
    options.pop("model_type")
    theirs = getattr(transformers, f"{family}ForPreTraining")(
        getattr(transformers, f"{family}Config")(**options)
    )
    state = theirs.state_dict()
    source = from_params(config, params)
    for name in source.table.shapes:
        prefix = "" if name.startswith("cls.") else f"{family.lower()}."
        state.pop(prefix + name).copy_(torch.tensor(source.read(name)))
    assert set(state) == set(BERT.copies)
    return theirs


def from_transformers(config: BertConfig, tensors: dict[str, np.ndarray]) -> Any:
    """Tensors by transformers' names (weights or gradients) as a tree of ours."""
    named = {canonical(name): array for name, array in tensors.items()}
    tree = parameter_shapes(config)
    table = TensorTable(BERT.rules(config, tree), tree)
    return table.params(named.__getitem__, lambda _, array: array)


def transformers_results(
    config: BertConfig,
    params: Any,
    batch: MlmBatch,
    *,
    double: bool = False,
    family: str = "Bert",
) -> dict[str, Any]:
    """Outputs, loss and gradients of transformers without dropout.

    `double` computes in float64; `family` is "Bert" or "Ernie".
    """
    import torch

    theirs = to_transformers(config, params, family).eval()
    theirs = theirs.double() if double else theirs
    inputs = transformers_inputs(batch)
    out = theirs(**inputs, output_hidden_states=True)
    out.loss.backward()
    pooled = theirs.base_model.pooler(out.hidden_states[-1])
    grads = {name: p.grad.float().numpy() for name, p in theirs.named_parameters()}
    results = {
        "hidden": torch.stack(out.hidden_states),
        "pooled": pooled,
        "logits": out.prediction_logits,
        "nsp_logits": out.seq_relationship_logits,
        "loss": out.loss,
    }
    results = {name: x.detach().float().numpy() for name, x in results.items()}
    return {**results, "grads": from_transformers(config, grads)}


def transformers_inputs(batch: MlmBatch) -> dict[str, Any]:
    """`batch` as keyword arguments of `BertForPreTraining`."""
    import torch

    labels = np.full(batch.tokens.shape, -100)
    for row, at in itertools.product(*map(range, batch.predictions.shape)):
        if batch.weights[row, at]:
            labels[row, batch.predictions[row, at]] = batch.targets[row, at]
    arrays = {
        "input_ids": batch.tokens,
        "token_type_ids": batch.token_types,
        "attention_mask": batch.mask,
        "labels": labels,
        "next_sentence_label": batch.nsp_labels,
    }
    return {k: torch.tensor(np.asarray(v, np.int64)) for k, v in arrays.items()}


def case(activation: str) -> tuple[BertConfig, Any, MlmBatch]:
    """Config, weights and batch of the golden file of an activation."""
    config = dataclasses.replace(TINY, activation=activation)
    batch = random_batch(config, batch=3, length=11, predictions=4)
    return config, random_params(config), batch


def main() -> None:
    """Write every golden file."""
    for activation in ACTIVATIONS:
        results = transformers_results(*case(activation), double=True)
        grads = {f"grads/{path}": g for path, g in leaves(results.pop("grads"))}
        path = FOLDER / f"bert_{activation}.npz"
        np.savez_compressed(path, **results, **grads)
        print(f"{path.name}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
