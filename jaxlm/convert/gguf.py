"""A GPT-2 or a BERT → one GGUF file, as llama.cpp and what stands on it read them.

llama.cpp has a graph a family, and what that graph does otherwise is refused here:
GPT-1's order of norms, ERNIE's ReLU, a cased BERT (its WordPiece lower-cases). Its GELU
is the tanh form through a table in half precision, so parity is about 1e-3. A BERT's
heads have no place in the file: it gives vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, ElmoConfig, GptConfig, ModelConfig
from jaxlm.convert.atomic import atomic_file, sha256_of
from jaxlm.convert.model_file import ModelFile
from jaxlm.convert.rules import Rule, TensorTable, dense, norm, table
from jaxlm.convert.tensors import Dtype, cast
from jaxlm.text.tokenizers import ByteBpe, Tokenizer, WordPiece
from jaxlm.types import UserError

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # kinds of tokens, gguf.TokenType


def from_params(config: ModelConfig, params: Any) -> ModelFile:
    """A model in memory, as llama.cpp names its tensors; a BERT without its heads.

    Raises:
        UserError: llama.cpp has no such model.
    """
    match config:
        case BertConfig(activation="relu"):
            raise UserError("llama.cpp's BERT has a GELU, ERNIE a ReLU: no GGUF")
        case BertConfig():
            rules = _bert()
        case GptConfig(norm="post"):
            raise UserError("llama.cpp's GPT-2 norms first, GPT-1 last: no GGUF")
        case GptConfig(activation="gelu_tanh"):
            rules = _gpt2(config)
        case GptConfig(activation=other):
            raise UserError(f"llama.cpp's GPT-2 has gelu_tanh, this one {other}")
        case ElmoConfig():
            raise UserError("llama.cpp has no ELMo: export --to elmo")
    kept = {k: v for k, v in params.items() if k in ("embed", "layers", "final_norm")}
    return ModelFile.of(config, TensorTable(rules, kept), kept, ())


def _gpt2(config: GptConfig) -> list[Rule]:
    block, at = "layers/", "blk.{0}."
    joined = [f"{block}attention/{name}" for name in ("query", "key", "value")]
    groups = [
        table("embed/token", "token_embd", rows=config.vocab_size),
        table("embed/position", "position_embd"),
        norm("final_norm", "output_norm"),
        norm(f"{block}attention_norm", f"{at}attn_norm"),
        dense(joined, f"{at}attn_qkv", transpose=True),
        dense(f"{block}attention/out", f"{at}attn_output", inputs=2, transpose=True),
        norm(f"{block}mlp_norm", f"{at}ffn_norm"),
        dense(f"{block}mlp/wi", f"{at}ffn_up", transpose=True),
        dense(f"{block}mlp/wo", f"{at}ffn_down", transpose=True),
    ]
    return [rule for group in groups for rule in group]


def _bert() -> list[Rule]:
    block, at = "layers/", "blk.{0}."
    groups = [
        table("embed/token", "token_embd"),
        table("embed/position", "position_embd"),
        table("embed/token_type", "token_types"),
        norm("embed/norm", "token_embd_norm"),
        dense(f"{block}attention/query", f"{at}attn_q", transpose=True),
        dense(f"{block}attention/key", f"{at}attn_k", transpose=True),
        dense(f"{block}attention/value", f"{at}attn_v", transpose=True),
        dense(f"{block}attention/out", f"{at}attn_output", inputs=2, transpose=True),
        norm(f"{block}attention_norm", f"{at}attn_output_norm"),
        dense(f"{block}mlp/wi", f"{at}ffn_up", transpose=True),
        dense(f"{block}mlp/wo", f"{at}ffn_down", transpose=True),
        norm(f"{block}mlp_norm", f"{at}layer_output_norm"),
    ]
    return [rule for group in groups for rule in group]


def export_gguf(
    out: Path, source: ModelFile, tokenizer: Tokenizer, dtype: Dtype, origin: dict
) -> dict[str, str]:
    """Write the file, a tensor at a time, whole or not at all.

    Args:
        out: of the file.
        source: of `from_params`.
        tokenizer: of the model.
        dtype: of matrices; vectors and positions stay float32.
        origin: where the model comes from.

    Returns:
        Name → SHA-256.

    Raises:
        UserError: gguf is not installed, or llama.cpp has no such tokenizer or dtype.
    """
    try:
        import gguf  # pyrefly: ignore
    except ImportError:
        raise UserError("export --to gguf needs gguf: pip install gguf") from None
    if dtype == "bfloat16":
        raise UserError("GGUF is written in float32 or float16")
    config: Any = source.config
    with atomic_file(out) as beside:
        arch = "gpt2" if isinstance(config, GptConfig) else "bert"
        writer = gguf.GGUFWriter(beside, arch)
        try:
            writer.add_name(str(origin.get("run", origin.get("model", "jaxlm"))))
            writer.add_description("; ".join(f"{k}: {v}" for k, v in origin.items()))
            writer.add_context_length(config.max_length)
            writer.add_embedding_length(config.d_model)
            writer.add_block_count(config.num_layers)
            writer.add_feed_forward_length(config.d_ff)
            writer.add_head_count(config.num_heads)
            writer.add_layer_norm_eps(config.norm_eps)
            writer.add_file_type(0 if dtype == "float32" else 1)
            _add_tokens(writer, config, tokenizer, gguf.PoolingType.MEAN)
            kinds: dict[str, Dtype] = {}
            for name, shape in source.table.shapes.items():
                half = len(shape) == 2 and not name.startswith(("position", "token_ty"))
                kinds[name] = dtype if half else "float32"
                kind = np.dtype(kinds[name])
                size = int(np.prod(shape)) * kind.itemsize
                writer.add_tensor_info(name, shape, kind, size)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, kind in kinds.items():
                writer.write_tensor_data(cast(name, source.read(name), kind))
        finally:
            writer.close()
    return {out.name: sha256_of(out)}


def _add_tokens(writer: Any, config: Any, tokenizer: Tokenizer, pooling: Any) -> None:
    """The vocabulary as llama.cpp spells it, each entry once: else it aborts."""
    if isinstance(config, GptConfig):
        if not isinstance(tokenizer, ByteBpe) or tokenizer.prefix_space:
            raise UserError(
                f"llama.cpp's GPT-2 has a byte-level BPE, not {tokenizer.kind}"
            )
        end = tokenizer.end_of_document
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(list(tokenizer.tokens))
        kinds = [_CONTROL if i == end else _NORMAL for i in range(config.vocab_size)]
        writer.add_token_types(kinds)
        writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
        if end is not None:
            writer.add_bos_token_id(end)
            writer.add_eos_token_id(end)
        writer.add_add_bos_token(False)
        return
    special = tokenizer.special
    if not isinstance(tokenizer, WordPiece) or special is None:
        raise UserError(f"llama.cpp's BERT has a WordPiece, not {tokenizer.kind}")
    if not tokenizer.lowercase:
        raise UserError("llama.cpp's WordPiece lower-cases, this vocabulary is cased")
    names = set(tokenizer.special_names.values())
    words, kinds, seen = [], [], set()
    for i, token in enumerate(tokenizer.tokens):
        aside = token in names or token.startswith("[unused")
        word = token if aside else token[2:] if token[:2] == "##" else f"▁{token}"
        while not word or word in seen:  # "##" by itself
            word += "\u0000"
        seen.add(word)
        words.append(word)
        unknown = i == special.unknown
        kinds.append(_UNKNOWN if unknown else _CONTROL if aside else _NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_type_count(config.num_token_types)
    writer.add_bos_token_id(special.cls)
    writer.add_eos_token_id(special.sep)
    writer.add_sep_token_id(special.sep)
    writer.add_pad_token_id(special.pad)
    writer.add_unk_token_id(special.unknown)
    writer.add_mask_token_id(special.mask)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
