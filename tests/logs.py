"""A log and made-up metrics, for tests of what a run writes."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxlm.config import LogConfig, RunConfig
from jaxlm.metrics import Mean
from jaxlm.train.log import Log

STEP = "the step for 8 × 64 tokens"


def config(every: int = 4, tensorboard: bool = False, **fields) -> RunConfig:
    log = LogConfig(every=every, tensorboard=tensorboard)
    return RunConfig(log=log, steps=40, **fields)


def metrics(step: int, *, skipped: int = 0, loss: float | None = None) -> dict:
    draw = np.random.default_rng(step)
    total = float(draw.uniform(10, 30)) if loss is None else loss
    return {
        "loss": Mean(jnp.float32(total / 4), jnp.float32(1)),
        "mlm_loss": Mean(jnp.float32(total), jnp.float32(draw.integers(4, 9))),
        "mlm_accuracy": Mean(jnp.float32(draw.integers(4)), jnp.float32(5)),
        "nsp_loss": Mean(jnp.float32(draw.uniform(1, 3)), jnp.float32(4)),
        "learning_rate": jnp.float32(0.25),
        "grad_norm": jnp.float32(step),
        "skipped": jnp.int32(skipped),
    }


def lines(workdir: Path) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def opened(
    workdir, *, start=0, last=40, carry=None, stream=None, every=4, **more
) -> Log:
    stream = stream or io.StringIO()
    return Log(workdir, config(every), start, last, carry, stream=stream, **more)
