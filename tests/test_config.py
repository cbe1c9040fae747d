"""Configurations: what is written is read back equal, and what is wrong is named."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from tiny import stored

from jaxlm.config import (
    LogConfig,
    OptimConfig,
    Phase,
    RunConfig,
    bert,
    difference,
    load_config,
)
from jaxlm.config.files import from_dict, recipes
from jaxlm.config.model import BERT_SIZES
from jaxlm.types import UserError

PHASES = (
    Phase(until=90, length=128, batch=64, predictions=20),
    Phase(until=100, length=512, batch=16, predictions=76, accumulate=4),
)
RICH = RunConfig(
    model=bert("tiny", vocab_size=999, dropout=0.0),
    optim=OptimConfig(name="lamb", peak=3e-4),
    phases=PHASES,
    steps=100,
    seed=2**32 - 1,
)


@pytest.mark.parametrize("config", [RunConfig(), RICH])
def test_json_gives_an_equal_config_back(config):
    assert stored(config) == config
    assert difference(config, stored(config)) == {}


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_shipped_recipe_survives_the_round_trip(name):
    config = load_config(name)
    assert stored(config) == config


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(stepz=1), "unknown config field stepz; did you mean steps"),
        (
            lambda d: d["model"].update(num_layer=3),
            "unknown config field model.num_layer; did you mean model.num_layers",
        ),
        (
            lambda d: d["optim"].update(warm_up=3),
            "unknown config field optim.warm_up; did you mean optim.warmup",
        ),
        (
            lambda d: d["phases"][1].update(lenght=3),
            "unknown config field phases.+lenght; did you mean phases.+length",
        ),
        (lambda d: d.update(qqqq=1), "unknown config field qqqq$"),
        (lambda d: d.update(_at=1), "unknown config field _at; did you mean data"),
    ],
)
def test_an_unknown_field_is_an_error_with_the_nearest_name(change, message):
    data = json.loads(json.dumps(dataclasses.asdict(RICH)))
    change(data)
    with pytest.raises(UserError, match=message):
        from_dict(data)


def test_differences_are_by_dotted_name_with_both_values():
    other = dataclasses.replace(
        RICH,
        seed=1,
        model=dataclasses.replace(RICH.model, vocab_size=1000),
        phases=(PHASES[0], dataclasses.replace(PHASES[1], batch=32)),
    )
    assert difference(RICH, other) == {
        "seed": (2**32 - 1, 1),
        "model.vocab_size": (999, 1000),
        "phases.1.batch": (16, 32),
    }
    fewer = dataclasses.replace(
        RICH, phases=(dataclasses.replace(PHASES[0], until=100),)
    )
    assert difference(RICH, fewer)["phases.1.length"] == (512, None)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RunConfig(steps=0), "steps = 0 must be at least 1"),
        (lambda: RunConfig(keep=0), "keep = 0 must be at least 1"),
        (lambda: RunConfig(save_every=0), "save_every = 0 must be at least 1"),
        (lambda: RunConfig(stop=-1), "stop = -1 must be at least 0"),
        (lambda: LogConfig(every=0), "log.every = 0 must be at least 1"),
        (lambda: LogConfig(every=True), "log.every = True is not a whole number"),
        (lambda: OptimConfig(peak=-1.0), "optim.peak = -1.0 must be at least 0"),
        (lambda: OptimConfig(clip=math.nan), "optim.clip = nan is not a finite number"),
        (lambda: OptimConfig(b1=1.0), r"optim.b1 = 1.0 is not in \[0, 1\)"),
        (lambda: RunConfig(seed=2**32), r"seed = 4294967296 is not in \[0, 4294967296"),
        (lambda: RunConfig(length=600), "length = 600 exceeds model.max_length = 512"),
        (lambda: RunConfig(length=7), "length = 7 must be at least 8"),
        (lambda: RunConfig(steps=2**31), "steps = 2147483648 is above 2147483647"),
        (lambda: OptimConfig(warmup=10**21), "optim.warmup = 10+ is above 2147483647"),
        (lambda: RunConfig(predictions=10**9), "batch × predictions = 256.* is above"),
        (lambda: RunConfig(batch=2**30), "batch × length = 1374.* is above 2147483647"),
        (lambda: RunConfig(steps=9, skip=("9:10",)), "skips nothing: the last batch i"),
        (
            lambda: RunConfig(eval_every=0.5),
            "eval_every = 0.5 is not a number of steps",
        ),
        (
            lambda: RunConfig(batch=10, accumulate=4),
            "batch = 10 is not a multiple of accumulate = 4",
        ),
        (lambda: RunConfig(steps=50, phases=PHASES), "ends at step 100, steps = 50"),
        (
            lambda: RunConfig(steps=90, phases=(PHASES[1], PHASES[0])),
            "phases.1.until = 90 does not follow 100",
        ),
        (lambda: bert("tiny", num_heads=3), "d_model = 128 is not a multiple .*= 3"),
        (lambda: bert("tiny", dropout=1.0), r"dropout = 1.0 is not in \[0, 1\)"),
        (lambda: bert("tiny", vocab_size=0), r"vocab_size = 0 is not in \[1, "),
    ],
)
def test_a_value_that_cannot_be_is_an_error_with_the_numbers(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_one_phase_is_made_of_the_runs_own_fields():
    (phase,) = RunConfig(steps=7, length=64, batch=8, predictions=5).all_phases
    assert phase == Phase(until=7, length=64, batch=8, predictions=5)
    assert RICH.all_phases == PHASES


@pytest.mark.parametrize(
    "warmup, steps", [(0, 0), (0.1, 7), (0.001, 1), (1, 1), (40, 40)]
)
def test_warm_up_is_steps_or_a_share_of_all_steps(warmup, steps):
    assert OptimConfig(warmup=warmup).warmup_steps(79) == steps


def test_sizes_are_the_published_ones():
    base, large = bert("base"), bert("large")
    assert (base.num_layers, base.d_model, base.num_heads, base.d_ff) == (
        12,
        768,
        12,
        3072,
    )
    assert (large.num_layers, large.d_model, large.num_heads) == (24, 1024, 16)
    assert set(BERT_SIZES) == {"tiny", "mini", "small", "medium", "base", "large"}


def test_a_recipe_that_is_not_there_is_an_error_with_those_that_are(tmp_path):
    with pytest.raises(
        UserError, match="no config 'bert_tyni': did you mean bert_tiny"
    ):
        load_config("bert_tyni")
    with pytest.raises(UserError, match=r"no config file .*mine\.py"):
        load_config(str(tmp_path / "mine.py"))
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"mine\.py has no function get_config"):
        load_config(str(tmp_path / "mine.py"))
    text = "from jaxlm.config import *\ndef get_config(): return RunConfig(seed=5)\n"
    (tmp_path / "mine.py").write_text(text)
    assert load_config(str(tmp_path / "mine.py")).seed == 5


def test_configs_are_frozen_and_need_no_jax():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LogConfig().every = 3
    code = "import sys, jaxlm.config; assert 'jax' not in sys.modules, 'imports jax'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("steps",), "100", "steps = '100' is not a whole number"),
        (("steps",), True, "steps = True is not"),
        (("optim", "peak"), float("nan"), "optim.peak = nan is not a finite number"),
        (("text", "lowercase"), "no", "text.lowercase = 'no' is not True or False"),
        (("text", "tokenizer"), "wordpeace", "did you mean wordpiece"),
        (("text",), [], r"text = \[\] is not an object"),
        (("model", "num_layers"), 10**9, "num_layers = 1000000000 is not in"),
        (("model", "d_model"), None, "model.d_model = None is not a whole number"),
        (("phases",), {}, r"phases = \{\} is not a list"),
    ],
)
def test_values_of_a_file_have_the_types_of_their_fields(at, value, message):
    content = json.loads(json.dumps(dataclasses.asdict(load_config("bert_tiny"))))
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    with pytest.raises(UserError, match=message):
        from_dict(content)
