"""The step of every family on every kind of mesh: what its program does, and does not.

Each step is compiled for 8 fake devices. A collective more or less than in COLLECTIVES
is seen, whatever change made it; so are arrays that grow with the square of a row, and
XLA's warnings that it gathers a whole array to cut it in another way. The step is also
run, and its loss and gradients are those of one device.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxlm import mesh
from jaxlm.config import (
    MaskedData,
    MeshConfig,
    OptimConfig,
    RunConfig,
    bert,
    elmo,
    gpt2,
)
from jaxlm.train.source import corpus_source, open_phase, open_run
from jaxlm.tree import leaves

# A length that no other size of a program is.
B, L = 16, 24
SIZES = {"num_layers": 2, "num_heads": 4, "d_model": 32, "d_ff": 64, "vocab_size": 256}
ELMO = {"d_model": 16, "d_ff": 64, "filters": (8, 8), "vocab_size": 256}
MODELS = {
    "bert": bert("tiny", **SIZES, max_length=L, dropout=0.0),
    "gpt": gpt2("tiny", **SIZES, max_length=L, dropout=0.0),
    "elmo": elmo("tiny", **ELMO, dropout=0.0),
}
MESHES = {
    "replica": MeshConfig(replica=2, data=4),
    "fsdp": MeshConfig(data=2, fsdp=4),
    "tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}
NAMES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# In the order of NAMES, in the text of the program: those of a loop count once.
# A newer jax may do with fewer.
COLLECTIVES = {
    ("bert", "replica"): (4, 0, 0, 0, 0),
    ("bert", "fsdp"): (9, 22, 7, 2, 0),
    ("bert", "tensor"): (27, 19, 0, 2, 11),
    ("gpt", "replica"): (3, 0, 0, 0, 0),
    ("gpt", "fsdp"): (6, 14, 6, 0, 0),
    ("gpt", "tensor"): (23, 14, 0, 0, 0),
    ("elmo", "replica"): (3, 20, 0, 0, 0),
    ("elmo", "fsdp"): (7, 30, 0, 0, 0),
    ("elmo", "tensor"): (29, 37, 0, 32, 6),
}
NEWER = jax.__version_info__ > (0, 10, 2)


def opened(family: str, **changes):
    """(the run, a function that makes its state, its only phase)

    No clipping and no warm-up: the first moment of the first step is a gradient.
    """
    optim = OptimConfig(name="adamw", warmup=0, clip=0.0, b1=0.5)
    fixed = {"optim": optim, "batch": B, "length": L, "predictions": 5}
    config = RunConfig(model=MODELS[family], **fixed, **changes)
    run, make = open_run(config, corpus_source(config, None))
    return run, make, open_phase(run, 0, 0, config.all_phases[0])


def drawn(opened):
    """Rows of made-up tokens."""
    draw = np.random.default_rng(0)

    def fill(leaf):
        if leaf.dtype == np.bool_:
            return np.ones(leaf.shape, bool)
        if leaf.ndim == 1:
            return np.full(leaf.shape, L // 2, leaf.dtype)
        return draw.integers(5, 200, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, opened.read(0)[1])


class Update(NamedTuple):
    """The first update of a run."""

    program: str
    loss: float
    gradient: dict[str, np.ndarray]


def first_update(family: str, cut: MeshConfig, begin, **changes) -> Update:
    run, _, phase = opened(family, mesh=cut, **changes)
    with jax.set_mesh(run.mesh):
        state = jax.tree.map(
            lambda x, shape: jax.device_put(x, shape.sharding), begin[0], run.abstract
        )
        batch = jax.device_put(begin[1], run.sharding)
        compiled = phase.train_step.lower(run.abstract, batch, run.seed).compile()
        state, metrics = compiled(state, batch, run.seed)
    moments = next(s for s in state.opt_state if hasattr(s, "mu")).mu
    gradient = jax.device_get(dict(leaves(moments)))
    return Update(compiled.as_text(), float(metrics["loss"].total), gradient)


@functools.cache
def on_one_device(family: str):
    """((the first state, the batch), the update)"""
    cut = MeshConfig(data=1)
    run, make, phase = opened(family, mesh=cut)
    with jax.set_mesh(run.mesh):
        batch = jax.jit(phase.stream.objective.transform)(drawn(phase))
        begin = jax.device_get((make(), batch))
    return begin, first_update(family, cut, begin)


@contextmanager
def without_cache():
    """XLA warns only when it compiles."""
    for enabled in (False, True):
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
        if not enabled:
            yield


@pytest.mark.parametrize("family", MODELS)
def test_runs_of_all_seeds_have_the_same_programs(family):
    """With dropout, masks and negatives: what is compiled for one seed serves all."""
    programs = []
    for seed in (0, 2**32 - 1):
        model = dataclasses.replace(MODELS[family], dropout=0.1)
        fixed = {"model": model, "batch": B, "length": L, "predictions": 5}
        config = RunConfig(seed=seed, **fixed)
        run, make = open_run(config, corpus_source(config, None))
        phase = open_phase(run, 0, 0, config.all_phases[0])
        transform = jax.jit(phase.stream.objective.transform)
        rows = phase.read(0)[1]
        batch = jax.eval_shape(transform, rows)
        steps = phase.train_step.lower(run.abstract, batch, run.seed)
        init = make.func.lower(*make.args)
        each = transform.lower(rows), steps, init
        programs.append([lowered.as_text() for lowered in each])
    assert programs[0] == programs[1]


@pytest.mark.devices
@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_rows_of_two_kinds_exchange_no_more_than_rows_of_one(name, monkeypatch):
    model = dataclasses.replace(MODELS["bert"], nsp=False)
    monkeypatch.setitem(MODELS, "bert", model)
    programs = []
    for share in (0.0, 0.5):
        data = MaskedData(causal_share=share)
        run, _, phase = opened("bert", mesh=MESHES[name], data=data)
        with jax.set_mesh(run.mesh):
            batch = jax.eval_shape(phase.stream.objective.transform, phase.read(0)[1])
            batch = jax.tree.map(
                lambda x, run=run: jax.ShapeDtypeStruct(
                    x.shape, x.dtype, sharding=run.sharding
                ),
                batch,
            )
            lowered = phase.train_step.lower(run.abstract, batch, run.seed)
            programs.append(collectives(lowered.compile().as_text()))
    plain, both = programs
    # No rows move, and each gradient is exchanged once. Cut over tensor, the kernel of
    # the head is gathered for the forward pass, too.
    most = (1, int(name == "tensor"), 0, 0, 0)
    assert all(b <= p + m for p, b, m in zip(plain, both, most, strict=True)), programs


def collectives(program: str) -> tuple[int, ...]:
    return tuple(len(re.findall(rf" {x}(?:-start)?\(", program)) for x in NAMES)


def squares(program: str) -> set[str]:
    """Boolean arrays and constants of L × L outside of fused computations."""
    found = set()
    for computation in program.split("\n\n"):
        if "fused_computation" not in computation.split("(")[0]:
            shape = rf"\w+\[(?:\d+,)*{L},{L}\]"
            found |= set(re.findall(rf"{shape}\S* constant", computation))
            found |= set(re.findall(rf"pred\[(?:\d+,)*{L},{L}\]", computation))
    return found


@pytest.mark.devices
@pytest.mark.parametrize(("family", "cut"), COLLECTIVES)
def test_a_step_on_8_devices(family, cut, capfd):
    begin, one = on_one_device(family)
    capfd.readouterr()
    with without_cache():
        eight = first_update(family, MESHES[cut], begin)
    said = re.findall(".*full rematerialization.*", capfd.readouterr().err)
    # The newest XLA also cuts the gates of a recurrent kernel that is cut by `tensor`.
    assert not said or (NEWER and (family, cut) == ("elmo", "tensor"))
    found, expected = collectives(eight.program), COLLECTIVES[family, cut]
    assert all(f <= e for f, e in zip(found, expected, strict=True)), (found, expected)
    assert NEWER or found == expected
    assert not squares(eight.program)
    np.testing.assert_allclose(eight.loss, one.loss, rtol=1e-5)
    for path, expected in one.gradient.items():
        scale = max(np.abs(expected).max(), 1e-6)  # key biases have no gradient
        assert np.abs(eight.gradient[path] - expected).max() / scale < 1e-4, path


@pytest.mark.devices
def test_the_gradient_of_a_large_filter_needs_no_rows_of_other_devices(monkeypatch):
    """Each device would else compute a part of it, from the characters of all."""
    wide = ELMO | {"filters": (0, 4200), "num_highways": 0}
    monkeypatch.setitem(MODELS, "wide", elmo("tiny", **wide, dropout=0.0))
    run, _, phase = opened("wide", mesh=MeshConfig(data=8))
    with jax.set_mesh(run.mesh):
        batch = jax.jit(phase.stream.objective.transform)(drawn(phase))
        batch = jax.device_put(batch, run.sharding)
        program = (
            phase.train_step.lower(run.abstract, batch, run.seed).compile().as_text()
        )
    gathered = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather(?:-start)?\(", program)
    largest = max(np.prod([int(n) for n in each.split(",")]) for each in gathered)
    kernel = 2 * MODELS["wide"].d_character * 4200
    assert largest <= kernel


def between_replicas(program: str) -> list[str]:
    """Collectives between the first four and the last four of 8 devices."""
    found = []
    for line in program.splitlines():
        # The newest XLA names axes of the mesh.
        if named := re.search(r"replica_groups=mesh\[\S+ \{(.*?)\}", line):
            if "'replica'" in named[1]:
                found.append(line)
            continue
        groups = re.search(r"replica_groups=(\{\{.*?\}\}|\[\S+?(?=, \w))", line)
        if not groups:
            continue
        listed = [re.findall(r"\d+", x) for x in re.findall(r"[\d,]+", groups[1])]
        if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", groups[1]):
            shape, sizes, order = (
                [int(n) for n in each.split(",")] if each else None
                for each in iota.groups()
            )
            numbers = np.arange(8).reshape(sizes).transpose(order).reshape(shape)
            listed = numbers.tolist()
        if any(len({int(n) // 4 for n in each}) > 1 for each in listed):
            found.append(line)
    return found


@pytest.mark.devices
@pytest.mark.parametrize("family", ["gpt", "elmo"])
def test_replicas_exchange_gradients_once_for_all_micro_batches(family):
    begin, one = on_one_device(family)
    cut = MeshConfig(replica=2, data=2, fsdp=2)
    eight = first_update(family, cut, begin, accumulate=2)
    loops, entry = eight.program.split("\nENTRY ")
    assert between_replicas(entry) and not between_replicas(loops)
    np.testing.assert_allclose(eight.loss, one.loss, rtol=1e-5)
    for path, expected in one.gradient.items():
        scale = max(np.abs(expected).max(), 1e-6)
        assert np.abs(eight.gradient[path] - expected).max() / scale < 1e-4, path


@pytest.mark.parametrize("family", MODELS)
def test_no_product_is_float32_under_bfloat16(family, monkeypatch):
    monkeypatch.setattr(mesh, "platform", lambda: "tpu")
    run, _, phase = opened(family, precision="bfloat16", mesh=MeshConfig(data=1))
    with jax.set_mesh(run.mesh):
        batch = jax.eval_shape(phase.stream.objective.transform, phase.read(0)[1])
        traced = phase.train_step.trace(run.abstract, batch, run.seed)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    products = re.findall(r"(?:dot_general|convolution).*: \((.*), (.*)\) ->", text)
    assert products
    # The two logits of the next sentence are taken in float32.
    slow = [x for x in products if all(re.search(r"xf32>", each) for each in x)]
    assert not [x for x in slow if not re.search(r"x2xf32", "".join(x))]
