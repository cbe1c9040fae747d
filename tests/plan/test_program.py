"""Compiled programs whose FLOP, bytes and collectives are known by arithmetic."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxlm.plan.program import read_program
from jaxlm.plan.roofline import between_slices, collective, compute_seconds, steps_of
from jaxlm.plan.topologies import _CHIPS, Topology

CHIP = _CHIPS["h100"]
HERE = Topology("test", [], CHIP, 1e12, 1.0)  # 1 TFLOP/s


def steps(text: str):
    return steps_of(read_program(text), HERE)


def compiled(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile()


def flops(program) -> float:
    return sum(each.flops for each in steps(program.as_text()))


def test_products_are_counted():
    def chain(x, y, z):
        return jnp.einsum("bij,bjk->bik", x @ y, z)

    found = flops(compiled(chain, (3, 8, 16), (16, 32), (3, 32, 64)))
    assert found == 2 * 3 * 8 * (16 * 32 + 32 * 64)


def test_a_loop_counts_as_often_as_it_turns():
    """XLA's own count has the body of a loop once, so its loop is unrolled."""

    def loop(unroll):
        def run(x, w):
            step = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
            return jax.lax.scan(step, x, w, unroll=unroll)[0].sum()

        return compiled(jax.grad(run, (0, 1)), (8, 16), (5, 16, 16))

    rolled, unrolled = loop(1), loop(5)
    assert flops(rolled) == flops(unrolled) == 5 * 3 * 2 * 8 * 16 * 16
    known = unrolled.cost_analysis()["flops"]
    assert flops(unrolled) == pytest.approx(known, rel=0.1)  # it counts sums, too
    assert rolled.cost_analysis()["flops"] < 0.5 * known


HEAD = "HloModule x, is_scheduled=true\n\n"
SLICED = """%inside (a: f32[12,1024], b: s32[]) -> f32[1,1024] {
  %a = f32[12,1024]{1,0:T(8,128)} parameter(0)
  %b = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,1024]{1,0:T(1,128)} dynamic-slice(%a, %b, %zero), \
dynamic_slice_sizes={1,1024}
}

ENTRY %main (p: f32[12,1024], q: s32[]) -> f32[1,1024] {
  %p = f32[12,1024]{1,0:T(8,128)} parameter(0)
  %q = s32[]{:T(128)S(6)} parameter(1)
  ROOT %fusion = f32[1,1024]{1,0:T(1,128)} fusion(%p, %q), kind=kLoop, calls=%inside
}
"""


def test_of_a_sliced_array_the_slice_is_read():
    (only,) = steps(HEAD + SLICED)
    assert only.moved == 2 * 4 * 1024
    assert only.seconds == only.moved / CHIP.hbm and only.by == "memory"


def test_what_stays_on_the_chip_is_not_traffic():
    text = SLICED.replace("T(1,128)} fusion", "T(1,128)S(1)} fusion")
    (only,) = steps(HEAD + text)
    assert only.moved == 4 * 1024


def test_an_update_in_place_writes_the_update():
    text = """%inside (a: f32[12,1024], b: f32[1,1024]) -> f32[12,1024] {
  %a = f32[12,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %new = f32[12,1024]{1,0} dynamic-update-slice(%a, %b, %zero, %zero)
}

ENTRY %main (p: f32[12,1024], q: f32[1,1024]) -> f32[12,1024] {
  %p = f32[12,1024]{1,0} parameter(0)
  %q = f32[1,1024]{1,0} parameter(1)
  ROOT %fusion = f32[12,1024]{1,0} fusion(%p, %q), kind=kLoop, calls=%inside
}
"""
    (only,) = steps(HEAD + text)
    assert only.moved == 2 * 4 * 1024


def test_what_is_only_renamed_in_a_fusion_is_read_by_the_next():
    """A fusion inside of another one passes its operand on."""
    text = """%renamed (a: f32[1024]) -> f32[8,128] {
  %a = f32[1024]{0} parameter(0)
  ROOT %b = f32[8,128]{1,0} bitcast(%a)
}

%outer (c: f32[1024]) -> f32[8,128] {
  %c = f32[1024]{0} parameter(0)
  %d = f32[8,128]{1,0} fusion(%c), kind=kLoop, calls=%renamed
  ROOT %e = f32[8,128]{1,0} negate(%d)
}

ENTRY %main (p: f32[1024]) -> f32[8,128] {
  %p = f32[1024]{0} parameter(0)
  ROOT %fusion = f32[8,128]{1,0} fusion(%p), kind=kLoop, calls=%outer
}
"""
    (only,) = steps(HEAD + text)
    assert only.moved == 2 * 4 * 1024


REDUCED = """ENTRY %main (p: f32[1024,1024], q: f32[512,512]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %q = f32[512,512]{1,0} parameter(1)
  %all-reduce-start = f32[1024,1024]{1,0} all-reduce-start(%p), to_apply=%add
  %dot = f32[512,512]{1,0} dot(%q, %q), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
  ROOT %all-reduce-done = f32[1024,1024]{1,0} all-reduce-done(%all-reduce-start)
}
"""


def test_what_runs_beside_a_collective_hides_it():
    reduced, dot = steps(HEAD + REDUCED)
    assert collective(reduced) and not collective(dot)
    assert reduced.moved == 4 * 1024**2
    assert reduced.seconds == 2 * 4 * 1024**2 / CHIP.links + 20e-6
    assert dot.flops == 2 * 512**3 and dot.seconds == dot.flops / 1e12
    assert reduced.hidden == min(reduced.seconds, dot.seconds) > 0
    assert compute_seconds([reduced, dot]) == dot.seconds
    alone = REDUCED.replace("-start", "").replace(
        "ROOT %all-reduce-done = f32[1024,1024]{1,0} all-reduce-done",
        "%x = s32[] tuple",
    )
    reduced, _ = steps(HEAD + alone)
    assert reduced.by == "all-reduce" and not reduced.hidden


SCATTER = """%all-reduce-scatter (p: f32[1024]) -> f32[128] {
  %p = f32[1024]{0} parameter(0)
  %all = f32[1024]{0} all-reduce(%p), to_apply=%add
  ROOT %part = f32[128]{0} slice(%all), slice={[0:128]}
}

"""


@pytest.mark.parametrize(
    "before, call",
    [
        ("", "reduce-scatter(%p), dimensions={0}, to_apply=%add"),
        (SCATTER, "fusion(%p), kind=kCustom, calls=%all-reduce-scatter"),
    ],
)
def test_a_scattered_sum_sends_its_operand(before, call):
    text = f"""{before}ENTRY %main (p: f32[1024]) -> f32[128] {{
  %p = f32[1024]{{0}} parameter(0)
  ROOT %sum = f32[128]{{0}} {call}
}}
"""
    (only,) = steps(HEAD + text)
    assert only.moved == 4 * 128
    assert only.seconds == 4 * 1024 / CHIP.links + 20e-6


TRANSFER = """ENTRY %main (p: f32[1024,1024]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %t = token[] after-all()
  %send = (f32[1024,1024]{1,0}, u32[], token[]) send(%p, %t), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[1024,1024]{1,0}, u32[], token[]) recv(%t), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %dot = f32[1024,1024]{1,0} dot(%p, %p), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
  %done = (f32[1024,1024]{1,0}, token[]) recv-done(%recv), channel_id=1
  ROOT %got = f32[1024,1024]{1,0} get-tuple-element(%done), index=0
}
"""


def test_what_goes_to_other_slices_takes_the_data_centres_network():
    """A chip sends its part to the others, and its sum: 2 (n - 1) / n of its bytes."""
    chips = [SimpleNamespace(slice_index=i) for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    machine = HERE._replace(devices=chips, chip=_CHIPS["v5e"])
    assert machine.slices == 4
    sent, dot = steps_of(read_program(HEAD + TRANSFER), machine)
    assert sent.by == "all-reduce between slices" and sent.moved == 4 * 1024**2
    assert collective(sent) and between_slices(sent) and not between_slices(dot)
    assert sent.seconds == 1.5 * 4 * 1024**2 / machine.chip.network + 20e-6
    assert sent.hidden == min(sent.seconds, dot.seconds) > 0
    gathered = HEAD + TRANSFER.replace("ALL_REDUCE", "ALL_GATHER")
    (other, _) = steps_of(read_program(gathered), machine)
    assert other.by == "all-gather between slices"
    assert other.seconds == 0.75 * 4 * 1024**2 / machine.chip.network + 20e-6
    assert not collective(steps(HEAD + TRANSFER.replace("_megascale", ""))[0])


def test_dimensions_of_a_batch_are_no_part_of_a_product():
    """A TPU's compiler writes [2, 12] products as the windows of a convolution."""
    text = """ENTRY %main (q: bf16[2,1024,12,64], k: bf16[2,1024,12,64]) -> f32[] {
  %q = bf16[2,1024,12,64]{3,2,1,0} parameter(0)
  %k = bf16[2,1024,12,64]{3,2,1,0} parameter(1)
  ROOT %c = bf16[2,12,1024,1024]{3,2,1,0} convolution(%q, %k), window={size=2x12 \
stride=1x11 lhs_dilate=2x12}, dim_labels=0b1f_0o1i->01bf
}
"""
    (only,) = steps(HEAD + text)
    assert only.flops == 2 * 2 * 12 * 1024 * 1024 * 64


def test_a_kernel_that_is_not_known_is_named():
    text = """ENTRY %main (p: f32[256]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  %buffer = f32[9999]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %k = f32[256]{0} custom-call(%p), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/my_kernel"}
}
"""
    free, known = steps(HEAD + text)
    assert known.unknown == "my_kernel" and known.moved == 2 * 4 * 256
    assert not free.seconds and not free.unknown


ATTENTION = """ENTRY %main (q: bf16[2,12,64,1024]) -> bf16[2,12,1024,64] {
  %q = bf16[2,12,64,1024]{3,2,1,0} parameter(0)
  %m = s8[1,2,2]{2,1,0} parameter(1)
  ROOT %splash_mha_fwd_residuals.1 = bf16[2,12,1024,64]{3,2,1,0} custom-call(%m, %q, \
%q, %q), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha_fwd_residuals/pallas_call"}
}
"""


def test_attention_kernels_are_counted_by_their_shapes():
    """Two products of all pairs; of 2 × 2 causal blocks, three are computed."""
    whole = 2 * 2 * 2 * 12 * 1024 * 1024 * 64
    (splash,) = steps(HEAD + ATTENTION)
    assert splash.flops == 0.75 * whole and not splash.unknown
    (other,) = steps(HEAD + ATTENTION.replace("splash_mha_fwd", "other"))
    assert not other.flops and other.unknown == "other_residuals"
    window = ATTENTION.replace("s8[1,2,2]", "s8[1,8,3]")
    assert steps(HEAD + window)[0].flops == 3 / 8 * whole
    text = """ENTRY %main (q: bf16[2,1024,12,64]) -> bf16[2,12,1024,64] {
  %q = bf16[2,1024,12,64]{3,2,1,0} parameter(0)
  ROOT %f = bf16[2,12,1024,64]{3,1,2,0} custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax", backend_config={"mask_type": "CAUSAL"}
}
"""
    assert steps(HEAD + text)[0].flops == 9 / 16 * whole
    backward = text.replace("Softmax", "SoftmaxBackward").replace("CAUSAL", "NO_MASK")
    assert steps(HEAD + backward)[0].flops == 2.5 * whole
