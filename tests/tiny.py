"""A config of a tiny BERT that uses every source of randomness."""

import dataclasses
import json

from jaxlm.config import (
    LogConfig,
    MaskedData,
    MeshConfig,
    OptimConfig,
    RunConfig,
    bert,
)
from jaxlm.config.files import from_dict


def stored(config: RunConfig) -> RunConfig:
    """The config as a run directory gives it back."""
    return from_dict(json.loads(json.dumps(dataclasses.asdict(config))))


def tiny(**changes) -> RunConfig:
    """The config of a run of 12 steps, with `changes` to its fields."""
    config = RunConfig(
        model=bert(
            "tiny",
            vocab_size=600,
            num_layers=2,
            num_heads=2,
            d_model=16,
            d_ff=32,
            max_length=32,
            dropout=0.1,
        ),
        data=MaskedData(threads=2, short_rate=0.5),
        optim=OptimConfig(name="adamw", peak=1e-3, warmup=4, decay="linear"),
        mesh=MeshConfig(data=1),
        log=LogConfig(every=2, batches=True, tensorboard=False),
        seed=3,
        steps=12,
        batch=16,
        length=32,
        predictions=5,
        accumulate=2,
        save_every=4,
        eval_every=0,
    )
    return dataclasses.replace(config, **changes)
