"""An encoder or a GPT → ONNX, for onnxruntime and transformers.js, at any length.

    onnx/model.onnx              BERT: logits, or the last hidden states without a head;
                                 GPT: with `past_key_values.*` in and `present.*` out
    onnx/decoder_model.onnx      GPT: whole texts
    config.json, tokenizer.json  what transformers.js reads beside it

Inputs and outputs have the names and the int64 ids of transformers.js; an empty past
begins a text. The graph is built here, with a method for each function of the model, so
no length is fixed and no other package is needed to trace it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.checks import optional
from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.convert.huggingface import from_params, write_config
from jaxlm.tree import is_padded, leaves

_OPSET = 17  # the first with LayerNormalization
_INLINE = 3 * 2**29  # bytes that one protocol buffer holds safely
_LOW = float(np.finfo(np.float32).min)
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_ROWS = ["batch", "sequence"]
Rope = tuple[str, str]  # cosines and sines


class Graph:
    """An ONNX graph under construction; methods add nodes and return output names."""

    def __init__(self, onnx: Any, config: BertConfig | GptConfig, params: Any):
        self.onnx, self.config, self.nodes, self.weights = onnx, config, [], {}
        self.flat = {
            path: np.asarray(leaf)[: config.vocab_size if is_padded(path) else None]
            for path, leaf in leaves(params)
        }
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = name or f"{op.lower()}_{len(self.nodes)}_0"
        node = self.onnx.helper.make_node(op, list(inputs), [name], **attributes)
        self.nodes.append(node)
        return name

    def declare(self, values: list[Any], name: str, shape: list[Any]) -> str:
        """Add an input or output, int64 for ids, else float32; returns its name."""
        kind = np.dtype(np.int64 if name in (_IDS, _MASK, _TYPES) else np.float32)
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(kind)
        values.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """The name of a constant: a number or a list of numbers."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{array.tolist()}"
        self.weights.setdefault(name, array)
        return name

    def weight(self, path: str, layer: int | None = None, inputs: int = 0) -> str:
        """The name of a leaf, or of one layer of it, as vector or inputs × outputs."""
        name = path if layer is None else f"{path}[{layer}]"
        if name not in self.weights:
            array = self.flat[path] if layer is None else self.flat[path][layer]
            rows = int(np.prod(array.shape[:inputs]))
            shape = (rows, -1) if inputs else (-1,)
            self.weights[name] = np.ascontiguousarray(array.reshape(shape))
        return name

    def dense(self, x: str, path: str, layer: int | None = None, inputs=1) -> str:
        """The output of a dense layer, x · kernel + bias."""
        y = self("MatMul", x, self.weight(f"{path}/kernel", layer, inputs))
        if f"{path}/bias" not in self.flat:
            return y
        return self("Add", y, self.weight(f"{path}/bias", layer))

    def norm(self, x: str, path: str, layer: int | None = None) -> str:
        """The output of a LayerNorm over the last axis."""
        paths = (f"{path}/{leaf}" for leaf in ("scale", "bias"))
        given = (self.weight(each, layer) for each in paths if each in self.flat)
        eps = self.config.norm_eps
        return self("LayerNormalization", x, *given, axis=-1, epsilon=eps)

    def activation(self, x: str) -> str:
        """The activation of the config, as in `models/layers.py`."""
        if self.config.activation == "relu":
            return self("Relu", x)
        if self.config.activation == "gelu_erf":
            inner = self("Erf", self.times(x, np.sqrt(0.5)))
        else:
            cube = self("Mul", self("Mul", x, x), self.times(x, 0.044715))
            inner = self("Tanh", self.times(self("Add", x, cube), np.sqrt(2 / np.pi)))
        one = self.constant(1, np.float32)
        return self("Mul", self.times(x, 0.5), self("Add", inner, one))

    def times(self, x: str, factor: float) -> str:
        """x · factor."""
        return self("Mul", x, self.constant(factor, np.float32))

    def length(self, x: str) -> str:
        """The length of the second axis, as a vector of one number."""
        return self("Shape", x, start=1, end=2)

    def positions(self) -> str:
        """The position of each token, float32 [L]."""
        end = self("Squeeze", self.length(_IDS))
        ids = self("Range", self.constant(0), end, self.constant(1))
        return self("Cast", ids, to=self.onnx.TensorProto.FLOAT)

    def rope(self, base: float) -> Rope:
        """Cosines and sines of rope, [L, K/2], as in `models/layers.py`."""
        width = self.config.d_model // self.config.num_heads
        power = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        speed = self.constant([1 / np.float32(base) ** power], np.float32)
        column = self("Unsqueeze", self.positions(), self.constant([1]))
        angle = self("Mul", column, speed)
        return self("Cos", angle), self("Sin", angle)

    def rotated(self, x: str, by: Rope) -> str:
        """Queries or keys [B, H, L, K], turned."""
        width = self.config.d_model // self.config.num_heads
        ends = [self.constant([n]) for n in (0, width // 2, width)]
        axis, (cos, sin) = self.constant([3]), by
        a, b = (self("Slice", x, *both, axis) for both in (ends[:2], ends[1:]))
        first = self("Sub", self("Mul", a, cos), self("Mul", b, sin))
        second = self("Add", self("Mul", b, cos), self("Mul", a, sin))
        return self("Concat", first, second, axis=-1)

    def attention(
        self, x: str, seen: str, i: int, past: list[str], rope: Rope | None = None
    ) -> list[str]:
        """[output, keys, values]; keys and values [B, H, T, K] begin with the past."""
        heads, d_model = self.config.num_heads, self.config.d_model
        split = self.constant([0, 0, heads, d_model // heads])
        parts = []
        for name in ("query", "key", "value"):
            y = self("Reshape", self.dense(x, f"layers/attention/{name}", i), split)
            parts.append(self("Transpose", y, perm=[0, 2, 1, 3]))
        if rope:
            parts[:2] = (self.rotated(each, rope) for each in parts[:2])
        q, *pair = parts
        if past:
            both = zip(past, pair, strict=True)
            pair = [self("Concat", old, new, axis=2) for old, new in both]
        q = self.times(q, 1 / np.sqrt(d_model // heads))
        score = self("MatMul", q, self("Transpose", pair[0], perm=[0, 1, 3, 2]))
        score = self("Where", seen, score, self.constant(_LOW, np.float32))
        y = self("MatMul", self("Softmax", score, axis=-1), pair[1])
        y = self("Transpose", y, perm=[0, 2, 1, 3])
        y = self("Reshape", y, self.constant([0, 0, d_model]))
        return [self.dense(y, "layers/attention/out", i, inputs=2), *pair]

    def block(
        self, x: str, seen: str, i: int, past: list[str], rope: Rope | None = None
    ) -> list[str]:
        """The output of a layer, and its keys and values."""
        pre = self.config.norm == "pre"
        bare = isinstance(self.config, BertConfig) and not i
        inside = self.norm(x, "layers/attention_norm", i) if pre and not bare else x
        y, *pair = self.attention(inside, seen, i, past, rope)
        x = self("Add", x, y)
        x = x if pre else self.norm(x, "layers/attention_norm", i)
        h = self.norm(x, "layers/mlp_norm", i) if pre else x
        wide = self.activation(self.dense(h, "layers/mlp/wi", i))
        if self.config.gated:
            wide = self("Mul", wide, self.dense(h, "layers/mlp/gate", i))
        x = self("Add", x, self.dense(wide, "layers/mlp/wo", i))
        return [x if pre else self.norm(x, "layers/mlp_norm", i), *pair]

    def model(self) -> Any:
        """The finished graph as an ONNX model."""
        helper, tensor = self.onnx.helper, self.onnx.numpy_helper.from_array
        weights = [tensor(array, name) for name, array in self.weights.items()]
        parts = self.nodes, "jaxlm", self.inputs, self.outputs, weights
        versions = {
            "opset_imports": [helper.make_opsetid("", _OPSET)],
            "ir_version": 8,
            "producer_name": "jaxlm",
        }
        return helper.make_model(helper.make_graph(*parts), **versions)


def _bert(g: Graph, params: Any) -> None:
    config: Any = g.config
    for name in (_IDS, _MASK, *([_TYPES] if config.num_token_types else [])):
        g.declare(g.inputs, name, _ROWS)
    token = g.weight("embed/token/table", inputs=1)
    x = g("Gather", token, _IDS)
    ropes: list[Rope | None] = [None]
    if config.positions == "learned":
        end, zero = g.length(_IDS), g.constant([0])
        position = g.weight("embed/position/table", inputs=1)
        x = g("Add", x, g("Slice", position, zero, end, zero))
    else:
        ropes = [g.rope(base) for base in (config.rope_base, config.local_rope_base)]
    if config.num_token_types:
        token_type = g.weight("embed/token_type/table", inputs=1)
        x = g("Add", x, g("Gather", token_type, _TYPES))
    x = g.norm(x, "embed/norm")
    seen = g("Cast", _MASK, to=g.onnx.TensorProto.BOOL)
    seen = near = g("Unsqueeze", seen, g.constant([1, 2]))
    if config.window:
        row = g("Unsqueeze", g.positions(), g.constant([0]))
        far = g("Abs", g("Sub", g("Transpose", row, perm=[1, 0]), row))
        most = g.constant(config.window // 2, np.float32)
        near = g("And", seen, g("LessOrEqual", far, most))
    for i in range(config.num_layers):
        local = bool(config.window and i % config.global_every)
        x, *_ = g.block(x, near if local else seen, i, [], ropes[local])
    if config.norm == "pre":
        x = g.norm(x, "final_norm")
    out, width = "last_hidden_state", g.config.d_model
    if "mlm" in params:
        x = g.norm(g.activation(g.dense(x, "mlm/dense")), "mlm/norm")
        x = g("MatMul", x, g("Transpose", token, perm=[1, 0]))
        x = g("Add", x, g.weight("mlm/bias"))
        out, width = "logits", g.config.vocab_size
    g("Identity", x, name=g.declare(g.outputs, out, [*_ROWS, width]))


def _gpt(g: Graph, config: GptConfig, *, with_past: bool) -> None:
    g.declare(g.inputs, _IDS, _ROWS)
    g.declare(g.inputs, _MASK, ["batch", "total"])
    g.declare(g.outputs, "logits", [*_ROWS, config.vocab_size])
    new, total = g.length(_IDS), g.length(_MASK)
    past = g("Sub", total, new)
    # A row that is padded on the left counts from its own first token.
    at = g("Sub", g("CumSum", _MASK, g.constant(1)), g.constant(1))
    at = g("Slice", g("Max", at, g.constant(0)), past, total, g.constant([1]))
    token = g.weight("embed/token/table", inputs=1)
    x = g("Gather", token, _IDS)
    x = g("Add", x, g("Gather", g.weight("embed/position/table", inputs=1), at))
    one = g.constant([1])
    # [B, 1, new, total]: position past + l sees t ≤ past + l.
    square = g("Concat", one, one, new, one, axis=0)
    seen = g("Expand", g("Unsqueeze", _MASK, g.constant([1, 2])), square)
    seen = g("Cast", g("Trilu", seen, past, upper=0), to=g.onnx.TensorProto.BOOL)
    rows, width = ["batch", config.num_heads], config.d_model // config.num_heads
    for i in range(config.num_layers):
        held = []
        for part in ("key", "value") if with_past else ():
            name = f"past_key_values.{i}.{part}"
            held.append(g.declare(g.inputs, name, [*rows, "past", width]))
        x, *pair = g.block(x, seen, i, held)
        for name, each in zip(held, pair, strict=False):
            present = name.replace("past_key_values", "present")
            g.declare(g.outputs, present, [*rows, "total", width])
            g("Identity", each, name=present)
    if config.norm == "pre":
        x = g.norm(x, "final_norm")
    g("MatMul", x, g("Transpose", token, perm=[1, 0]), name="logits")


def write_onnx(directory: Path, model: Any) -> None:
    """Write the directory in float32."""
    onnx = optional("onnx", "export --to onnx")
    config, params = model.config, model.params
    write_config(directory, from_params(config, params), model.tokenizer)
    (directory / "onnx").mkdir()
    size = sum(leaf.nbytes for _, leaf in leaves(params))
    decoder = isinstance(config, GptConfig)
    for name in ("model", "decoder_model") if decoder else ("model",):
        graph = Graph(onnx, config, params)
        if decoder:
            _gpt(graph, config, with_past=name == "model")
        else:
            _bert(graph, params)
        onnx.save_model(
            graph.model(),
            directory / "onnx" / f"{name}.onnx",
            save_as_external_data=size > _INLINE,
            location=f"{name}.onnx_data",
        )
