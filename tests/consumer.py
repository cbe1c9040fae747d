"""What a user writes: pyrefly checks it from outside, see test_api.py."""

from typing import assert_type

import numpy as np
import optax

import jaxlm


def train(text: list[str]) -> jaxlm.Run[jaxlm.Model]:
    run = jaxlm.pretrain("bert_tiny", text=text, workdir="runs/a", steps=10, batch=4)
    assert_type(run.step, int)
    return run


def read(directory: str) -> float:
    model = jaxlm.load(directory, step=500, device="cpu", dtype="bfloat16")
    assert_type(model, jaxlm.Model)
    assert_type(model.encode("A text."), np.ndarray)
    tokens, mask = model.encode(["A text.", "Another one."])
    out = model.forward(tokens, mask=mask)
    hidden: np.ndarray = np.asarray(out.hidden)
    best = model.fill("A [MASK].", top_k=3)[0][0]
    assert_type(best.probability, float)
    optax.adam(1e-3).init(model.params)
    return best.probability + float(hidden.mean())


def take(directory: str) -> jaxlm.Model:
    assert_type(jaxlm.import_(directory, out="models/a", verify=True), bool)
    return jaxlm.load("models/a")


def tune() -> dict[str, float]:
    tuned = jaxlm.finetune("sst2", init="runs/a", data="sst2", workdir="runs/b")
    figures, _ = tuned.model.evaluate("dev.tsv")
    assert_type(jaxlm.evaluate("runs/a", text="a.txt"), dict[str, float])
    return figures
