"""Options of XLA's compiler: which ones a run's programs get, and what is refused."""

import json

import jax
import pytest
from tiny import tiny

from jaxlm import evaluation, xla
from jaxlm.sharding import make_mesh
from jaxlm.train.fits import lower_step
from jaxlm.train.source import corpus_source, open_phase, open_run, phases_of
from jaxlm.train.workdir import claim_workdir
from jaxlm.types import UserError
from jaxlm.xla import check_options, xla_options

RING = "xla_tpu_enable_windowed_einsum_for_reduce_scatter"


@pytest.mark.parametrize(
    ("platform", "always", "chosen"),
    [
        ("cpu", {}, {}),
        ("tpu", {RING: False}, {RING: False}),
        ("gpu", {}, {"xla_gpu_deterministic_ops": True}),
    ],
)
def test_each_platform_has_its_options(platform, always, chosen, monkeypatch):
    monkeypatch.setattr(xla, "platform", lambda: platform)
    config = tiny(deterministic=True, xla=(f"{RING}=true", "xla_a=1=2"))
    assert xla_options(tiny(), training=True) == always
    assert xla_options(config) == chosen
    # Those of the command line are for the train step, and win.
    given = {RING: True, "xla_a": "1=2"}
    assert xla_options(config, training=True) == chosen | given
    said = " ".join(xla.notes(config))
    assert f"{RING}=True" in said and ("every run" in said) == (platform != "gpu")


def test_a_run_without_options_says_nothing():
    assert xla.notes(tiny()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "xla_bogus=true",
            r"--xla xla_bogus=true: No such compile option: 'xla_bogus'",
        ),
        ("xla_cpu_enable_fast_math=maybe", "xla_cpu_enable_fast_math"),
    ],
)
def test_an_option_that_xla_refuses_is_an_error_in_one_line(given, message):
    config = tiny(xla=(given,))
    with pytest.raises(UserError, match=message) as caught:
        check_options(config, make_mesh(config.mesh))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="xla = bogus is not NAME=VALUE"):
        tiny(xla=("bogus",))


@pytest.fixture(scope="module")
def opened():
    """A run whose dropout has hashed bits, and the first step of it, traced."""
    config = tiny(accumulate=1, dropout_bits="hash")
    run, _ = open_run(config, corpus_source(config, None))
    assert run.options == {}
    run = run._replace(options={"xla_bogus": True})
    number, begin, phase = next(phases_of(config))
    opened = open_phase(run, number, begin, phase)
    return lower_step(run, opened, [opened.read(begin)])


def test_the_train_step_is_compiled_with_the_options(opened):
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_bogus"):
        opened.compile()


def test_dropout_takes_the_bits_that_the_config_names(opened):
    assert str(0x7FEB352D) in opened.as_text()  # a multiplier of the hash


def test_the_provenance_has_the_options(tmp_path):
    config = tiny(xla=("xla_cpu_enable_fast_math=false",))
    claim_workdir(tmp_path, config, {}, ["pretrain"], lambda to: None)
    (record,) = json.loads((tmp_path / "provenance.json").read_text())
    assert record["xla_options"] == {"xla_cpu_enable_fast_math": False}
    assert evaluation.xla_options(config) == {}
