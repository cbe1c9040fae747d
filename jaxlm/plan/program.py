"""The text of a compiled program → what each instruction does, and how often.

    %fusion.7 = bf16[2048,3072]{1,0:T(8,128)} fusion(%a, %b), kind=kOutput, calls=%f.7

XLA's own `cost_analysis` counts the body of a loop once; here it counts as often as it
runs. A program is a dict of computations, each a dict of instructions by name, in the
order in which they are scheduled. Next: `roofline.py`, which gives them seconds.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{[\d,]*(:[^{}]*)?\})?")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_BRANCHES = re.compile(r"(?:branch_computations=\{|\w+_computation=)([%\w.\-, ]+)")


class Array(NamedTuple):
    """The type of an array."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool  # in a memory that is not HBM

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> float:
        """The number of bytes."""
        bits = re.search(r"\d+", self.dtype)  # tokens have none
        return self.size * (int(bits[0]) / 8 if bits else float(self.dtype == "pred"))


class Instruction(NamedTuple):
    """An instruction of a computation."""

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]  # names
    argument: str  # of a constant, its value; of a parameter, its number
    attributes: str
    root: bool

    def attribute(self, pattern: str) -> str:
        """The group of a pattern in the attributes; empty if it is not there."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> str:
        """The computation of a fusion or a call; empty if there is none."""
        return self.attribute(r"(?:calls|to_apply)=%?([\w.\-]+)")

    @property
    def nbytes(self) -> float:
        """The bytes of all results."""
        return math.fsum(each.nbytes for each in self.results)

    @property
    def hbm(self) -> float:
        """The bytes of the results that lie in HBM."""
        return math.fsum(each.nbytes for each in self.results if not each.on_chip)


Computation = dict[str, Instruction]


class Product(NamedTuple):
    """A matrix product; `inner` is summed over, `sides` are the sizes of a result."""

    flops: float
    inner: float
    sides: tuple[float, float]
    float32: bool


class Work(NamedTuple):
    """What an instruction does each time it runs."""

    products: tuple[Product, ...] = ()
    moved: float = 0.0  # bytes from and to HBM
    elements: float = 0.0  # of element-wise operations; a transcendental one counts 4

    @property
    def flops(self) -> float:
        """FLOP of matrix products."""
        return math.fsum(each.flops for each in self.products)


class Program(NamedTuple):
    """All computations of a program by name, and the first one's name."""

    computations: dict[str, Computation]
    entry: str


def read_program(text: str) -> Program:
    """The program that XLA printed."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    # Metadata of kernels are printed on lines of their own.
    for line in re.sub(r"/\*.*?\*/|\n(?=\"|\}\})", "", text).splitlines():
        if found := _LINE.match(line):
            if current is not None:
                each = _instruction(found)
                current[each.name] = each
        elif (found := _HEAD.match(line)) and not line.startswith("HloModule"):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
    return Program(computations, entry)


def _instruction(found: re.Match) -> Instruction:
    root, name, shape, op, rest = found.groups()
    split = re.match(r"(.*?)\)(?:, (.*))?$", rest)
    inside, attributes = split.groups() if split else (rest, "")
    return Instruction(
        name,
        op,
        arrays(shape),
        tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside,
        attributes or "",
        bool(root),
    )


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a printed type."""
    return tuple(
        Array(
            dtype,
            tuple(int(size) for size in sizes.split(",") if size),
            bool(re.search(r"S\([1-9]", layout or "")),
        )
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


def turns(program: Program, loop: Instruction) -> int:
    """How often the body of a `while` runs; 1 if its end is not a constant."""
    if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)'):
        return int(known)
    return max(1, _largest(program, loop.attribute(r"condition=%?([\w.\-]+)")))


def _largest(program: Program, name: str) -> int:
    """The largest whole number among the constants of a computation."""
    found = [0]
    for each in program.computations.get(name, {}).values():
        if each.op == "constant" and each.argument.isdecimal():
            found.append(int(each.argument))
        found.append(_largest(program, each.called) if each.called else 0)
    return max(found)


def branches(program: Program, choice: Instruction) -> list[str]:
    """The computations of a `conditional`, of which one runs."""
    named = " ".join(_BRANCHES.findall(choice.attributes))
    return [
        name for name in re.findall(r"[\w.\-]+", named) if name in program.computations
    ]


def inside(program: Program, name: str) -> Iterator[tuple[Computation, Instruction]]:
    """All instructions of a fused computation, and of those fused into it."""
    computation = program.computations.get(name, {})
    for each in computation.values():
        if each.op == "fusion":
            yield from inside(program, each.called)
        else:
            yield computation, each


def work(program: Program, computation: Computation, each: Instruction) -> Work:
    """What an instruction does; of a slice, and of an update in place, that part."""
    given = [computation[name] for name in each.operands if name in computation]
    if each.op == "fusion":
        body = program.computations.get(each.called, {})
        return Work(
            tuple(
                _product(among, one)
                for among, one in inside(program, each.called)
                if one.op in ("dot", "convolution")
            ),
            _read(program, body, given) + _written(program, body, each),
            math.fsum(_elements(a, one) for a, one in inside(program, each.called)),
        )
    read, written = math.fsum(one.hbm for one in given), each.hbm
    if each.op == "dynamic-slice":
        read = written
    elif each.op == "dynamic-update-slice":
        read, written = 0.0, given[1].nbytes
    elif each.op == "broadcast":
        read = 0.0
    elif each.op in ("copy-start", "slice-start"):
        # (destination, source, context), between HBM and the chip's own memory.
        moved = [one for one in each.results if one.size > 1]
        read = min((one.nbytes for one in moved), default=0.0)
        inside_hbm = len(moved) > 1 and not any(one.on_chip for one in moved)
        written = read if inside_hbm else 0.0
    found = [_product(computation, each)] if each.op in ("dot", "convolution") else []
    return Work(tuple(found), read + written)


def _read(program: Program, body: Computation, given: list[Instruction]) -> float:
    """Bytes that a fused computation reads from HBM."""
    names = _parameters(body)
    return math.fsum(
        one.hbm if len(one.results) > 1 else _uses(program, body, names[i], one.hbm)
        for i, one in enumerate(given)
        if one.hbm and i in names
    )


def _parameters(body: Computation) -> dict[int, str]:
    return {int(x.argument): x.name for x in body.values() if x.op == "parameter"}


def _uses(program: Program, body: Computation, name: str, whole: float) -> float:
    """Bytes that are read of a value of `whole` bytes inside a fused computation."""
    if body[name].root:  # another one reads it
        return whole
    total = 0.0
    for user in body.values():
        if name not in user.operands:
            continue
        first = user.operands[0] == name
        if first and user.op in ("dynamic-slice", "gather"):
            total += user.nbytes
        elif user.op in ("bitcast", "get-tuple-element"):
            total += _uses(program, body, user.name, whole)
        elif user.op == "fusion":
            inner = program.computations[user.called]
            names = _parameters(inner)
            total += math.fsum(
                _uses(program, inner, names[i], whole)
                for i, operand in enumerate(user.operands)
                if operand == name
            )
        elif not (first and user.op in ("dynamic-update-slice", "scatter")):
            return whole
    return min(total, whole)


def _written(program: Program, body: Computation, fusion: Instruction) -> float:
    """Bytes that a fused computation writes to HBM."""
    root = next((each for each in body.values() if each.root), None)
    if root is None:
        return fusion.hbm
    roots = root.operands if root.op == "tuple" else [root.name]
    return math.fsum(
        _updated(program, body, name, result.nbytes)
        for name, result in zip(roots, fusion.results, strict=False)
        if not result.on_chip
    )


def _updated(program: Program, body: Computation, name: str, whole: float) -> float:
    """Bytes that are written of a result: if it is updated in place, the update."""
    each = body[name]
    if each.op == "bitcast":
        return _updated(program, body, each.operands[0], whole)
    if each.op == "fusion" and len(each.results) == 1:
        inner = program.computations[each.called]
        root = next(one.name for one in inner.values() if one.root)
        return _updated(program, inner, root, whole)
    if each.op == "dynamic-update-slice":
        return body[each.operands[1]].nbytes
    if each.op == "scatter":  # which reads the rows that it updates
        return min(whole, 2 * body[each.operands[-1]].nbytes)
    return whole


_SLOW = re.compile("exponential|tanh|log|logistic|rsqrt|power|erf|divide|sqrt")
_FAST = re.compile(
    "add|multiply|subtract|maximum|minimum|select|compare|convert|and|or|xor|"
    "shift-left|shift-right-logical|negate|abs|clamp"
)


def _elements(computation: Computation, each: Instruction) -> float:
    if each.op == "reduce":
        return float(computation[each.operands[0]].results[0].size)
    rate = 4.0 if _SLOW.fullmatch(each.op) else 1.0
    counts = rate > 1 or _FAST.fullmatch(each.op)
    return rate * each.results[0].size if counts else 0.0


def _product(computation: Computation, each: Instruction) -> Product:
    left, right = (computation[name].results[0] for name in each.operands[:2])
    out = each.results[0]
    if each.op == "dot":
        inner = math.prod(left.shape[i] for i in _axes(each, "lhs_contracting_dims"))
        batch = math.prod(right.shape[i] for i in _axes(each, "rhs_batch_dims"))
        columns = right.size / inner / batch
        sides = out.size / columns, columns
    else:
        inner, sides = _convolution(each, left, right)
    float32 = left.dtype == right.dtype == "f32"
    small, large = sorted(sides)
    return Product(2.0 * out.size * inner, inner, (small, large), float32)


def _axes(each: Instruction, name: str) -> list[int]:
    found = each.attribute(rf"{name}=\{{([\d,]*)\}}")
    return [int(axis) for axis in found.split(",") if axis]


def _convolution(
    each: Instruction, left: Array, right: Array
) -> tuple[float, tuple[float, float]]:
    """(numbers summed for each result, the sides of the product).

    A TPU's compiler writes every product as a convolution. Dimensions of a batch are
    windows, in which one place of each counts: the others are padding or dilation.
    """
    out = each.results[0]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    assert labels, each
    lhs, rhs, result = labels.groups()
    axes = sorted(filter(str.isdecimal, result))
    said = each.attribute(r"window=\{([^}]*)\}")
    given = dict(fact.split("=") for fact in said.split())

    def of(name: str, default: int = 1) -> list[int]:
        """A fact of each axis of the window; of padding, that in front."""
        facts = given[name].split("x") if name in given else [str(default)] * len(axes)
        return [int(fact.split("_")[0]) for fact in facts]

    sizes, low = of("size"), of("pad", 0)
    facts = sizes, low, of("stride"), of("lhs_dilate"), of("rhs_dilate")
    places = 1.0
    for axis, *window in zip(axes, *facts, strict=True):
        lengths = left.shape[lhs.index(axis)], out.shape[result.index(axis)]
        places *= _places(*lengths, *window)
    columns = right.shape[rhs.index("o")]
    rows = out.size / columns
    if places != math.prod(sizes):
        rows /= math.prod(out.shape[result.index(axis)] for axis in axes)
    return right.shape[rhs.index("i")] * places, (rows, float(columns))


@functools.lru_cache(maxsize=4096)
def _places(
    length: int, out: int, size: int, low: int, stride: int, spread: int, gap: int
) -> float:
    """The mean number of places of a window that meet an element of the input."""
    at_OW = stride * np.arange(out)[:, None] - low + gap * np.arange(size)
    inside = (at_OW >= 0) & (at_OW <= (length - 1) * spread) & (at_OW % spread == 0)
    return float(inside.sum()) / max(1, out)
