"""What does not fit in memory ends in one line, with settings that were tried."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from roads import without_size
from runs import command
from tiny import tiny

from jaxlm.cli import main
from jaxlm.train import fits, source
from jaxlm.train.fits import step_bytes
from jaxlm.train.source import corpus_source, open_run


@pytest.fixture(scope="module")
def out_of_memory() -> Exception:
    """What XLA itself raises on a device that is too small."""
    with pytest.raises(Exception, match="RESOURCE_EXHAUSTED") as found:
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(10**14, jnp.int8))())
    return found.value


def said(capsys, argv: list[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 3
    error = without_size(capsys.readouterr().err)
    assert error.count("\n") == 1 and error.startswith(
        "jaxlm: does not fit in memory: "
    )
    return error


@pytest.mark.parametrize("when", ["compiling", "running"])
def test_a_step_that_does_not_fit_says_what_is_untried(
    corpus_directory, tmp_path, monkeypatch, capsys, out_of_memory, when
):
    """A CPU has no limit to compare with; the last checkpoint is complete."""
    feed_phase = source._feed_phase

    def failing(run, log, opened, steps):
        for i, (step, batch) in enumerate(feed_phase(run, log, opened, steps)):
            if i == 3 and when == "compiling":
                raise out_of_memory
            yield (step if i < 3 else too_large), batch

    def too_large(state, batch, seed):
        raise out_of_memory

    monkeypatch.setattr(source, "_feed_phase", failing)
    run = tmp_path / "run"
    argv = command(tmp_path, corpus_directory, run, save_every=3, accumulate=1)[3:]
    error = said(capsys, argv)
    assert "RESOURCE_EXHAUSTED: " in error and "accumulate 8, a smaller" in error
    assert "; untried: --remat full, --accumulate 2, " in error
    assert (run / "checkpoints" / "3").is_dir()


@pytest.mark.long
def test_only_settings_that_were_compiled_and_fit_are_proposed(corpus, monkeypatch):
    config = tiny(accumulate=1, batch=64, remat="full")
    run, _ = open_run(config, corpus_source(config, corpus))
    cut = dataclasses.replace(config, accumulate=8)
    small = step_bytes(open_run(cut, run.source.rebuilt(cut))[0])
    assert small < step_bytes(run)
    monkeypatch.setattr(fits, "_TIMES", (8,))
    monkeypatch.setattr(fits, "device_bytes", lambda: small)
    found = fits.remedies(run)
    assert found.startswith("compiled, and fits: --accumulate 8 (0.00 of 0.00 GB)")
    assert found.endswith("; --accumulate takes another --workdir")
    monkeypatch.setattr(fits, "device_bytes", lambda: small - 1)
    assert fits.remedies(run).startswith(
        "nothing tried fits; compiled, and does not fit: --accumulate 8; untried: "
    )


@pytest.mark.parametrize("verb", ["fill", "evaluate", "embed", "generate"])
def test_every_verb_ends_in_one_line(
    verb, tmp_path, monkeypatch, capsys, out_of_memory
):
    def load(directory):
        raise out_of_memory

    monkeypatch.setattr("jaxlm.load", load)
    text = tmp_path / "x.txt"
    text.write_text("A line.\n")
    words = ["--text", str(text)]
    more = {"fill": ["[MASK]"], "embed": [*words, "--out", "x.h5"], "generate": []}
    error = said(capsys, [verb, str(tmp_path), *more.get(verb, words)])
    assert ("untried: a smaller --" in error) == (verb != "fill")
