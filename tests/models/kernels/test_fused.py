"""The fused roads of attention equal the plain one; which calls take which, and why."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import MeshConfig
from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.models.bert import Bert
from jaxlm.models.gpt import Gpt
from jaxlm.models.kernels import attention as attention_file
from jaxlm.models.kernels import fused
from jaxlm.models.kernels.attention import attention
from jaxlm.models.kernels.fused import Call, choose, said, unfit
from jaxlm.sharding import make_mesh
from jaxlm.types import UserError

KEY = jax.random.key(1)
B, L, H, K = 2, 256, 2, 64
LENGTHS = np.array([L, 70])
# Texts of a packed row; 0 is padding.
TEXTS = (slice(0, 90), slice(90, 100), slice(100, 240))
SEGMENTS = np.zeros((B, L), np.int32)
for number, text in enumerate(TEXTS, 1):
    SEGMENTS[:, text] = number
INSIDE = {"lengths": np.arange(L) < LENGTHS[:, None], "segments": SEGMENTS > 0}
CASES = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": 40},
    "causal window": {"causal": True, "window": 140},
    "lengths": {"lengths": LENGTHS},
    "segments": {"segments": SEGMENTS},
    "causal segments": {"causal": True, "segments": SEGMENTS},
}


def inputs(rows=B, length=L, heads=H):
    shape = rows, length, heads, K
    return [jax.random.normal(key, shape) for key in jax.random.split(KEY, 3)]


def on(road, q, k, v, **facts):
    facts = {name: jnp.asarray(x) if np.ndim(x) else x for name, x in facts.items()}
    if road == "plain":
        return attention(q, k, v, road="plain", **facts)
    rest = {"causal": False, "window": None}
    return fused.fused(road, q, k, v, **{**rest, **facts})


def seen(y, facts):
    """`y` where there are tokens; the kernel's padding sees padding."""
    there = next((INSIDE[name] for name in facts if name in INSIDE), None)
    return y if there is None else jnp.where(there[..., None, None], y, 0)


def value_and_grads(road, x, **facts):
    def total(x):
        y = seen(on(road, *x, **facts), facts)
        return (y * jnp.sin(jnp.arange(y.size).reshape(y.shape))).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
    return [y, *grads]


def assert_equal(found, wanted, atol=2e-5):
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_splash_equals_the_plain_road(name, monkeypatch):
    monkeypatch.setattr(fused, "_BLOCKS", (128,))  # four blocks of scores
    found = value_and_grads("splash", inputs(), **CASES[name])
    assert_equal(found, value_and_grads("plain", inputs(), **CASES[name]))


@pytest.mark.parametrize("name", ["window", "lengths", "segments"])
def test_a_narrow_window_needs_no_square_of_scores(name, monkeypatch):
    x = [y[:, :203] for y in inputs(rows=B)]  # no multiple of the window
    cut = {name: given[:, :203] for name, given in INSIDE.items()}
    monkeypatch.setattr(sys.modules[__name__], "INSIDE", cut)
    facts = {**CASES[name], "window": 7, "dropout": lambda p: p}
    if name == "segments":
        facts["segments"] = SEGMENTS[:, :203]
    found = value_and_grads("plain", x, **facts)
    jaxpr = jax.make_jaxpr(lambda x: on("plain", *x, **facts))(x)
    assert "203,203]" not in str(jaxpr)
    cached = {"offset": jnp.zeros((), jnp.int32)}  # which is never cut
    wanted = value_and_grads("plain", x, **facts, **cached)
    assert_equal(found, wanted)


@pytest.mark.parametrize("road", ["plain", "splash"])
@pytest.mark.parametrize("local", [True, False])
def test_a_layer_of_a_loop_is_local_or_not(road, local, monkeypatch):
    monkeypatch.setattr(attention_file, "choose", lambda *_: (road, ""))
    x, near = inputs(rows=1), 40 if local else None

    def total(x, local):
        return (attention(*x, window=40, local=local) ** 2).sum()

    found = jax.jit(jax.value_and_grad(total))(x, local)
    monkeypatch.undo()
    want = jax.value_and_grad(lambda x: (attention(*x, window=near) ** 2).sum())(x)
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    assert_equal(found[1], want[1])


@pytest.mark.parametrize("road", ["plain", "splash"])
def test_a_packed_row_equals_each_of_its_texts_alone(road):
    packed = value_and_grads(road, inputs(), causal=True, segments=SEGMENTS)
    for text in TEXTS:
        alone = [x[:, text] for x in inputs()]

        def total(x, text=text):
            y = on("plain", *x, causal=True)
            weights = jnp.sin(jnp.arange(B * L * H * K).reshape(B, L, H, K))
            return (y * weights[:, text]).sum(), y

        (_, y), grads = jax.value_and_grad(total, has_aux=True)(alone)
        assert_equal([x[:, text] for x in packed], [y, *grads])


@pytest.mark.parametrize("road", ["plain", "splash"])
def test_a_row_without_tokens_gives_finite_values_and_gradients(road):
    def total(*x):
        return on(road, *x, lengths=np.array([L, 0])).sum()

    value, grads = jax.value_and_grad(total, (0, 1, 2))(*inputs())
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in grads)


@pytest.mark.devices
def test_eight_devices_run_the_kernel_on_their_own_rows_and_heads():
    x = inputs(rows=4, length=128)
    segments = np.tile(SEGMENTS[:, :128], (2, 1))

    def grads(x):
        def total(x):
            return (on("splash", *x, causal=True, segments=segments) ** 2).sum()

        return jax.value_and_grad(total)(x)

    want_value, want = grads(x)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        compiled = jax.jit(grads).lower(x).compile()
        value, found = compiled(x)
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    assert_equal(found, want)
    assert "all-gather" not in compiled.as_text()


CALL = Call((8, 512, 4, 64), "bfloat16")


@pytest.mark.parametrize(
    ("platform", "call", "road", "why"),
    [
        ("cpu", CALL, "plain", "no kernel for a CPU"),
        ("tpu", CALL, "splash", ""),
        ("tpu", CALL._replace(segments=True, two_sided=True), "splash", ""),
        ("tpu", CALL._replace(shape=(8, 64, 4, 64)), "plain", "64 tokens are shorter"),
        ("tpu", CALL._replace(shape=(8, 200, 4, 64)), "plain", "no multiple of"),
        ("tpu", CALL._replace(shape=(8, 128, 4, 64)), "plain", "faster in rows of 128"),
        ("tpu", CALL._replace(other="dropout"), "plain", "splash has no dropout"),
        ("tpu", CALL._replace(other="cache"), "plain", "splash has no cache"),
        ("gpu", CALL, "cudnn", ""),
        ("gpu", CALL._replace(shape=(8, 100, 4, 64)), "cudnn", ""),
        ("gpu", CALL._replace(dtype="float32"), "plain", "cudnn has no float32"),
        ("gpu", CALL._replace(segments=True), "plain", "cudnn has no packed rows"),
        ("gpu", CALL._replace(two_sided=True), "plain", "window to both sides"),
        ("gpu", CALL._replace(other="dropout"), "plain", "cudnn has no dropout"),
        ("gpu", CALL._replace(shape=(8, 512, 4, 160)), "plain", "heads of 160"),
    ],
)
def test_each_call_takes_the_best_road_that_can(platform, call, road, why, monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: platform)
    found = choose("auto", call)
    assert found[0] == road and why in found[1]
    if platform == "cpu":
        assert said("auto", call) == ""
    else:
        assert said("auto", call) == f"attention: {road}, {found[1]}"


def test_a_mesh_that_does_not_divide_the_call_takes_the_plain_road(monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    monkeypatch.setattr(fused, "row_parts", lambda: 3)
    assert unfit("splash", CALL) == "3 devices do not divide 8 rows"


@pytest.mark.parametrize(
    ("road", "platform", "why"),
    [
        ("splash", "cpu", "attention = splash: splash needs a TPU, this is a CPU"),
        ("cudnn", "tpu", "attention = cudnn: cudnn needs a GPU, this is a TPU"),
        ("cudnn", "gpu", "attention = cudnn: cudnn has no float32"),
    ],
)
def test_a_road_that_cannot_be_is_an_error_if_asked_for(
    road, platform, why, monkeypatch
):
    monkeypatch.setattr(fused, "platform", lambda: platform)
    with pytest.raises(UserError, match=f"^{why}; pass --attention auto$"):
        attention(*inputs(), road=road)
    assert choose("plain", CALL) == ("plain", "as asked")


def arrays_of_scores(text, length=L):
    """Arrays [.., L, L] outside fusions, as dtype[shape], of a compiled program."""
    found, inside = set(), False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = "fused" in line.split()[0]
        if not inside and " = " in line:
            shapes = re.findall(r"\b[a-z]+\d*\[[\d,]*\]", line)
            found |= {each for each in shapes if f"{length},{length}]" in each}
    return found


SHAPE = {"num_layers": 2, "d_model": 16, "num_heads": 1, "d_ff": 24, "max_length": L}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("windows", [False, True])
def test_no_mask_is_an_array_of_the_plain_step(windows, packed):
    module: Any = Gpt(GptConfig(vocab_size=40, **SHAPE), jnp.bfloat16)
    if windows:
        config = BertConfig(vocab_size=40, **SHAPE, window=8, positions="rope")
        module = Bert(config, jnp.bfloat16)
    inputs = [jnp.zeros((B, L), int)] * len(module.example())
    params = module.init(KEY, *module.example())["params"]
    segments = jnp.asarray(SEGMENTS) if packed else None

    def total(params, segments):
        out = module.apply({"params": params}, *inputs, segments=segments)
        return out.last.astype(jnp.float32).sum()

    step = jax.jit(jax.grad(total))
    options = {"xla_backend_optimization_level": 2}
    text = step.lower(params, segments).compile(compiler_options=options).as_text()
    found = arrays_of_scores(text)
    assert found, "the scores are arrays"
    assert not any(each.startswith(("pred", "s32")) for each in found), found


@pytest.mark.parametrize(("remat", "calls"), [("none", 2), ("dots", 2), ("full", 3)])
def test_only_full_recomputation_runs_the_kernel_again(remat, calls, monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    config = GptConfig(
        vocab_size=9, num_layers=2, d_model=64, num_heads=1, d_ff=8, max_length=L
    )
    module = Gpt(config, remat=remat)
    params = jax.eval_shape(lambda: module.init(KEY, *module.example())["params"])

    def total(params):
        return module.apply({"params": params}, jnp.zeros((B, L), int)).last.sum()

    text = jax.jit(jax.grad(total)).trace(params).lower(lowering_platforms=("tpu",))
    assert text.as_text().count("@tpu_custom_call") == calls


def test_the_backward_pass_keeps_one_array_of_scores():
    half = [x.astype(jnp.bfloat16) for x in inputs()]
    facts = {"causal": True, "segments": jnp.asarray(SEGMENTS)}
    _, backward = jax.vjp(lambda *x: attention(*x, **facts), *half)
    kept = [x for x in jax.tree.leaves(backward) if x.shape[-2:] == (L, L)]
    assert [(x.dtype, x.shape) for x in kept] == [(jnp.bfloat16, (B, H, L, L))]


def test_a_gpu_gets_calls_of_cudnn_without_a_mask(monkeypatch):
    library = "jax._src.cudnn.fused_attention_stablehlo.cuda_versions"
    version = SimpleNamespace(cudnn_get_version=lambda: 91200)
    monkeypatch.setattr(library, version)
    monkeypatch.setattr(fused, "platform", lambda: "gpu")
    half = [x.astype(jnp.bfloat16) for x in inputs()]

    def text(**facts):
        run = jax.grad(lambda x: attention(*x, **facts).astype(jnp.float32).sum())
        return jax.jit(run).trace(half).lower(lowering_platforms=("cuda",)).as_text()

    causal = text(causal=True)
    assert causal.count("custom_call @__cudnn$fmhaSoftmax") == 2
    assert "mask_type\\22: \\22CAUSAL" in causal
    padded = text(lengths=jnp.asarray(LENGTHS, jnp.int32))
    assert "mask_type\\22: \\22PADDING" in padded
    assert not re.search(rf"x{L}x{L}x", causal + padded)
    assert "cudnn" not in text(segments=jnp.asarray(SEGMENTS))
    by_layer = text(window=40, local=jnp.array(True))  # global layers take cudnn
    assert by_layer.count("custom_call @__cudnn$fmhaSoftmax") == 2
    assert not re.search(rf"dense<.*x{L}x{L}xi1>", by_layer)


def test_a_run_says_the_road_of_local_layers(monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: "gpu")
    one = "attention: cudnn, one kernel, without scores in memory"
    assert said("auto", CALL, window=1024) == said("auto", CALL) == one
    local = "; local layers plain, cudnn has no window to both sides"
    assert said("auto", CALL, window=128) == one + local
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    assert "local" not in said("auto", CALL, window=128)
