"""A BERT or a GPT → ONNX, for onnxruntime and transformers.js: any batch and length.

    onnx/model.onnx              BERT: logits, or the last hidden states without a head;
                                 GPT: with `past_key_values.*` in and `present.*` out
    onnx/decoder_model.onnx      GPT: whole texts
    config.json, tokenizer.json  what transformers.js reads beside it

Inputs and outputs have the names and the int64 ids of transformers.js; an empty past
begins a text. The graph is written out here, with a function for each function of
`models/layers.py`, so no length is fixed and no other package has to trace it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.convert.atomic import atomic_directory, write_digests
from jaxlm.convert.huggingface import from_params, write_config
from jaxlm.convert.optional import optional
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.tree import leaves

OPSET = 17  # the first with LayerNormalization
_INLINE = 3 * 2**29  # bytes that one protocol buffer holds safely
_LOW = float(np.finfo(np.float32).min)


class Graph:
    """A graph that grows by a node with each call; every value is a name."""

    def __init__(self, onnx: Any, params: Any):
        self.onnx, self.nodes, self.weights = onnx, [], {}
        self.flat = {path: np.asarray(leaf) for path, leaf in leaves(params)}

    def __call__(
        self, op: str, *inputs: str, outputs: int = 1, **attributes: Any
    ) -> Any:
        """Add a node; the name of its output, or a list of names."""
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            self.onnx.helper.make_node(op, list(inputs), names, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A number or a list of numbers."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{array.tolist()}"
        self.weights.setdefault(name, array)
        return name

    def weight(self, path: str, layer: int | None = None, inputs: int = 0) -> str:
        """A leaf, or one layer of it, as a vector or as inputs × outputs."""
        name = path if layer is None else f"{path}[{layer}]"
        if name not in self.weights:
            array = self.flat[path] if layer is None else self.flat[path][layer]
            rows = int(np.prod(array.shape[:inputs]))
            shape = (rows, -1) if inputs else (-1,)
            self.weights[name] = np.ascontiguousarray(array.reshape(shape))
        return name

    def dense(
        self, x: str, path: str, layer: int | None = None, inputs: int = 1
    ) -> str:
        """x · kernel + bias."""
        y = self("MatMul", x, self.weight(f"{path}/kernel", layer, inputs))
        return self("Add", y, self.weight(f"{path}/bias", layer))

    def norm(self, x: str, path: str, eps: float, layer: int | None = None) -> str:
        """A LayerNorm over the last axis."""
        scale, bias = (
            self.weight(f"{path}/{leaf}", layer) for leaf in ("scale", "bias")
        )
        return self("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def activation(self, x: str, name: str) -> str:
        """See `models/activations.py`."""
        if name == "relu":
            return self("Relu", x)
        if name == "gelu_erf":
            inner = self("Erf", self.times(x, np.sqrt(0.5)))
        else:
            cube = self("Mul", self("Mul", x, x), self.times(x, 0.044715))
            inner = self("Tanh", self.times(self("Add", x, cube), np.sqrt(2 / np.pi)))
        one = self.constant(1, np.float32)
        return self("Mul", self.times(x, 0.5), self("Add", inner, one))

    def times(self, x: str, factor: float) -> str:
        """x · factor."""
        return self("Mul", x, self.constant(factor, np.float32))

    def length(self, x: str, axis: int) -> str:
        """The length of an axis, as a vector of one number."""
        return self("Shape", x, start=axis, end=axis + 1)


def _attention(g: Graph, config: Any, x: str, seen: str, i: int, past: Any) -> Any:
    """Output, keys and values; these are [B, H, T, K], the past before the new ones."""
    heads, width = config.num_heads, config.d_model // config.num_heads
    split = g.constant([0, 0, heads, width])
    parts = []
    for name in ("query", "key", "value"):
        y = g("Reshape", g.dense(x, f"layers/attention/{name}", i), split)
        parts.append(g("Transpose", y, perm=[0, 2, 1, 3]))
    q, k, v = parts
    if past:
        k, v = (g("Concat", a, b, axis=2) for a, b in zip(past, (k, v), strict=True))
    q = g.times(q, 1 / np.sqrt(width))
    score = g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2]))
    score = g("Where", seen, score, g.constant(_LOW, np.float32))
    y = g("MatMul", g("Softmax", score, axis=-1), v)
    y = g("Transpose", y, perm=[0, 2, 1, 3])
    y = g("Reshape", y, g.constant([0, 0, config.d_model]))
    return g.dense(y, "layers/attention/out", i, inputs=2), k, v


def _block(g: Graph, config: Any, x: str, seen: str, i: int, past: Any) -> Any:
    pre = getattr(config, "norm", "post") == "pre"

    def norm(x: str, path: str) -> str:
        return g.norm(x, f"layers/{path}", config.norm_eps, i)

    inside = norm(x, "attention_norm") if pre else x
    y, k, v = _attention(g, config, inside, seen, i, past)
    x = g("Add", x, y)
    x = x if pre else norm(x, "attention_norm")
    h = g.dense(norm(x, "mlp_norm") if pre else x, "layers/mlp/wi", i)
    x = g("Add", x, g.dense(g.activation(h, config.activation), "layers/mlp/wo", i))
    return (x if pre else norm(x, "mlp_norm")), k, v


def _bert(onnx: Any, config: BertConfig, params: Any) -> Any:
    g = Graph(onnx, params)
    ids, mask, types = "input_ids", "attention_mask", "token_type_ids"
    token = g.weight("embed/token/table", inputs=1)
    x = g("Gather", token, ids)
    end = g.length(ids, 1)
    position = g.weight("embed/position/table", inputs=1)
    zero, axis = g.constant([0]), g.constant([0])
    x = g("Add", x, g("Slice", position, zero, end, axis))
    token_type = g.weight("embed/token_type/table", inputs=1)
    x = g.norm(
        g("Add", x, g("Gather", token_type, types)), "embed/norm", config.norm_eps
    )
    seen = g("Cast", mask, to=onnx.TensorProto.BOOL)
    seen = g("Unsqueeze", seen, g.constant([1, 2]))
    for i in range(config.num_layers):
        x, _, _ = _block(g, config, x, seen, i, None)
    out, width = "last_hidden_state", config.d_model
    if "mlm" in params:
        x = g.activation(g.dense(x, "mlm/dense"), config.activation)
        x = g.norm(x, "mlm/norm", config.norm_eps)
        x = g("MatMul", x, g("Transpose", token, perm=[1, 0]))
        x = g("Add", x, g.weight("mlm/bias"))
        out, width = "logits", config.vocab_size
    g.nodes.append(onnx.helper.make_node("Identity", [x], [out]))
    rows = ["batch", "sequence"]
    inputs = {name: (np.int64, rows) for name in (ids, mask, types)}
    return _model(g, inputs, {out: (np.float32, [*rows, width])})


def _gpt(onnx: Any, config: GptConfig, params: Any, *, with_past: bool) -> Any:
    g = Graph(onnx, params)
    ids, mask = "input_ids", "attention_mask"
    new, total = g.length(ids, 1), g.length(mask, 1)
    past = g("Sub", total, new)
    # A row that is padded on the left counts from its own first token.
    at = g("Sub", g("CumSum", mask, g.constant(1)), g.constant(1))
    at = g("Slice", g("Max", at, g.constant(0)), past, total, g.constant([1]))
    flat = g.flat["embed/token/table"][: config.vocab_size]
    g.weights["embed/token/table"] = np.ascontiguousarray(flat)
    x = g("Gather", "embed/token/table", ids)
    x = g("Add", x, g("Gather", g.weight("embed/position/table", inputs=1), at))
    # [B, 1, new, total]: position past + l sees t ≤ past + l.
    one = g.constant([1])
    square = g("Concat", one, one, new, one, axis=0)
    seen = g("Expand", g("Unsqueeze", mask, g.constant([1, 2])), square)
    seen = g("Cast", g("Trilu", seen, past, upper=0), to=onnx.TensorProto.BOOL)
    inputs: dict[str, Any] = {ids: (np.int64, ["batch", "sequence"])}
    inputs[mask] = (np.int64, ["batch", "total"])
    width = config.d_model // config.num_heads
    outputs: dict[str, Any] = {
        "logits": (np.float32, ["batch", "sequence", config.vocab_size])
    }
    for i in range(config.num_layers):
        names = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        x, *pair = _block(g, config, x, seen, i, names if with_past else None)
        if not with_past:
            continue
        for name, each in zip(names, pair, strict=True):
            shape = ["batch", config.num_heads, "past", width]
            inputs[name] = (np.float32, shape)
            present = name.replace("past_key_values", "present")
            outputs[present] = (np.float32, [*shape[:2], "total", width])
            g.nodes.append(onnx.helper.make_node("Identity", [each], [present]))
    if config.norm == "pre":
        x = g.norm(x, "final_norm", config.norm_eps)
    head = g("Transpose", "embed/token/table", perm=[1, 0])
    g.nodes.append(onnx.helper.make_node("MatMul", [x, head], ["logits"]))
    return _model(g, inputs, outputs)


def _model(g: Graph, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """The graph as a model; inputs and outputs are name → (dtype, shape)."""
    helper = g.onnx.helper

    def values(named: dict[str, Any]) -> list[Any]:
        kind = helper.np_dtype_to_tensor_dtype
        return [
            helper.make_tensor_value_info(name, kind(np.dtype(dtype)), shape)
            for name, (dtype, shape) in named.items()
        ]

    graph = helper.make_graph(
        g.nodes,
        "jaxlm",
        values(inputs),
        values(outputs),
        [g.onnx.numpy_helper.from_array(a, name) for name, a in g.weights.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="jaxlm"
    )


def export_onnx(
    out: Path,
    config: BertConfig | GptConfig,
    params: Any,
    tokenizer: Tokenizer,
    origin: dict[str, Any],
) -> dict[str, str]:
    """Write the directory in float32, whole or not at all: name → SHA-256.

    Raises:
        UserError: onnx is not installed.
    """
    onnx = optional("onnx", "export --to onnx")
    with atomic_directory(out) as beside:
        write_config(beside, from_params(config, params), tokenizer, "float32")
        (beside / "onnx").mkdir()
        size = sum(leaf.nbytes for _, leaf in leaves(params))

        def save(name: str, model: Any) -> None:
            onnx.save_model(
                model,
                beside / "onnx" / f"{name}.onnx",
                save_as_external_data=size > _INLINE,
                location=f"{name}.onnx_data",
            )

        if isinstance(config, GptConfig):
            save("model", _gpt(onnx, config, params, with_past=True))
            save("decoder_model", _gpt(onnx, config, params, with_past=False))
        else:
            save("model", _bert(onnx, config, params))
        return write_digests(beside, origin)
