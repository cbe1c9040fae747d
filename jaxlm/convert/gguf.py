"""A GPT-2, BERT or ModernBERT → a GGUF file, for llama.cpp and what is based on it.

llama.cpp has one graph for each family. Models that it computes otherwise are refused
here: GPT-1's order of norms, ERNIE's ReLU, a RoFormer, a cased BERT (its WordPiece
lower-cases).
Its GELU is the tanh form, from a table in half precision, so parity is about 1e-3. The
file cannot hold a BERT's heads, so a BERT gives only vectors.
"""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.checks import optional
from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.convert import Dtype
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.tensors import cast
from jaxlm.memory import transposed
from jaxlm.models.sentence import SentenceModel
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.library import merges_of
from jaxlm.types import SpecialTokens, UserError

_NORMAL, _UNKNOWN, _CONTROL, _ADDED = 1, 2, 3, 4  # kinds of tokens, gguf.TokenType
_WORDPIECE = {"type": "BertNormalizer", "clean_text": True, "lowercase": True}
_WORDPIECE |= {"handle_chinese_chars": True}
_NFC = {"type": "NFC"}


def write_gguf(path: Path, model: Any, dtype: Dtype, origin: dict[str, Any]) -> None:
    """Write the file, one tensor at a time.

    Matrices have `dtype`; vectors and positions stay float32.
    """
    config, tokenizer = model.config, model.tokenizer
    check_graph(config)
    pooling = _pooling_of(model.sentence) if model.sentence else ""
    if isinstance(config, BertConfig):
        pooling = pooling or "MEAN"
    gguf = optional("gguf", "export --to gguf")
    if dtype == "bfloat16":
        raise UserError("GGUF is written in float32 or float16")
    decoder = isinstance(config, GptConfig)
    modern = isinstance(config, BertConfig) and config.layout == "modernbert"
    arch = "gpt2" if decoder else "modern-bert" if modern else "bert"
    parts = ("embed", "layers", "final_norm")
    source = from_params(config, {k: v for k, v in model.params.items() if k in parts})
    layers = config.num_layers
    graph = gguf.MODEL_ARCH[arch.upper().replace("-", "_")]
    known = gguf.get_tensor_name_map(graph, layers).get_name
    with contextlib.closing(gguf.GGUFWriter(path, arch)) as writer:
        writer.add_name(str(origin.get("run", origin.get("model", "jaxlm"))))
        writer.add_description("; ".join(f"{k}: {v}" for k, v in origin.items()))
        writer.add_context_length(config.max_length)
        writer.add_embedding_length(config.d_model)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(config.d_ff)
        writer.add_head_count(config.num_heads)
        writer.add_layer_norm_eps(config.norm_eps)
        writer.add_file_type(0 if dtype == "float32" else 1)
        if decoder or (modern and tokenizer.like == "byte_bpe"):
            _add_byte_bpe(writer, config, tokenizer)
        else:
            _add_wordpiece(writer, tokenizer)
        if isinstance(config, BertConfig):
            writer.add_causal_attention(False)
            if config.num_token_types:
                writer.add_token_type_count(config.num_token_types)
        if isinstance(config, BertConfig) and modern:
            writer.add_rope_freq_base(config.rope_base)
            writer.add_rope_freq_base_swa(config.local_rope_base)
            writer.add_vocab_size(config.vocab_size)
            if config.window:
                writer.add_sliding_window(config.window)
                writer.add_sliding_window_pattern(config.global_every)
        if pooling:
            writer.add_pooling_type(gguf.PoolingType[pooling])
        tensors: dict[str, tuple[str, Dtype, bool]] = {}
        for theirs, shape in source.table.shapes.items():
            name = known(theirs, try_suffixes=(".weight", ".bias"))
            half = len(shape) == 2 and not name.startswith(("position", "token_ty"))
            kind: Dtype = dtype if half else "float32"
            # GPT-2's kernels are inputs × outputs in transformers alone.
            turn = decoder and name.startswith("blk") and len(shape) == 2
            tensors[name] = theirs, kind, turn
            size = math.prod(shape) * np.dtype(kind).itemsize
            shape = shape[::-1] if turn else shape
            writer.add_tensor_info(name, shape, np.dtype(kind), size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (theirs, kind, turn) in tensors.items():
            array = source.read(theirs)
            array = transposed(array) if turn else array
            writer.write_tensor_data(cast(name, array, kind))


def _pooling_of(sentence: SentenceModel) -> str:
    """llama.cpp's name of a pooling; a UserError names what a GGUF has no word for."""
    pooling, lacks = " and ".join(sentence.pooling), ""
    known = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
    if pooling not in known:
        lacks = f"a pooling by {pooling}"
    elif any(sentence.layers):
        lacks = "a Dense behind the pooling"
    elif sentence.prompt_of(""):
        lacks = f"a prompt in front of each text, as {sentence.prompt!r} here"
    if lacks:
        raise UserError(f"GGUF has no word for {lacks}: export --to sentence")
    return known[pooling]


def missing_from_gguf(model: Any) -> str:
    """What the users of a file of a sentence model have to do themselves, or ""."""
    sentence, longest = model.sentence or SentenceModel(), model.config.max_length
    todo = [f"put prompts in front ({', '.join(sentence.prompts)})"]
    todo *= any(sentence.prompts.values())
    if _rules(model.tokenizer).get("normalizer") == _NFC:
        todo.append("normalise text to NFC")
    if 0 < sentence.max_length < longest:
        todo.append(f"truncate texts at {sentence.max_length} tokens")
    return f"llama.cpp does not {' or '.join(todo)} as the model does" if todo else ""


def check_graph(config: BertConfig | GptConfig) -> None:
    """Raise a UserError for a model that llama.cpp would compute differently."""
    match config:
        case BertConfig(layout="roformer"):
            others = "export --to hf, onnx, sentence or stablehlo"
            raise UserError(f"llama.cpp has no RoFormer: {others}")
        case BertConfig(activation="relu"):
            raise UserError("llama.cpp's BERT has a GELU, ERNIE a ReLU: export --to hf")
        case GptConfig(norm="post"):
            raise UserError("llama.cpp's GPT-2 norms first, GPT-1 last: export --to hf")
        case GptConfig(activation=other) if other != "gelu_tanh":
            raise UserError(f"llama.cpp's GPT-2 has gelu_tanh, this one {other}")


def _add_byte_bpe(writer: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """GPT-2's vocabulary and merges, and an encoder's [CLS] and [SEP]."""
    rules = _rules(tokenizer)
    cutter = {"use_regex": True, **(rules.get("pre_tokenizer") or {})}
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    normal, special = rules.get("normalizer"), tokenizer.special
    if not gpt2.items() <= cutter.items() or normal not in (None, _NFC):
        raise UserError(f"llama.cpp's GPT-2 has a byte-level BPE, not {tokenizer.like}")
    end = tokenizer.end_of_document
    added = {each["id"] for each in rules["added_tokens"] if not each["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(tokenizer.tokens))
    kinds = dict.fromkeys(added, _ADDED) | {end: _CONTROL}
    if isinstance(config, BertConfig) and special:
        kinds |= dict.fromkeys(_add_special(writer, special), _CONTROL)
        end = None
    writer.add_token_types([kinds.get(i, _NORMAL) for i in range(config.vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in merges_of(rules["model"])])
    if end is not None:
        writer.add_bos_token_id(tokenizer.begin_of_text)
        writer.add_eos_token_id(end)
    writer.add_add_bos_token(isinstance(config, BertConfig))
    writer.add_add_eos_token(isinstance(config, BertConfig))


def _add_special(writer: Any, special: SpecialTokens) -> list[int]:
    """An encoder's special tokens; returns their ids."""
    writer.add_bos_token_id(special.cls)
    writer.add_eos_token_id(special.sep)
    writer.add_sep_token_id(special.sep)
    writer.add_pad_token_id(special.pad)
    writer.add_unk_token_id(special.unknown)
    writer.add_mask_token_id(special.mask)
    return [special.cls, special.sep, special.pad, special.unknown, special.mask]


def _rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of the tokenizer's tokenizer.json."""
    library = tokenizer.library()
    return json.loads(library.to_str()) if library else {}


def _add_wordpiece(writer: Any, tokenizer: Tokenizer) -> None:
    """A BERT's vocabulary in llama.cpp's spelling, which allows no entry twice."""
    special, rules = tokenizer.special, _rules(tokenizer)
    if tokenizer.like != "wordpiece" or special is None:
        raise UserError(f"llama.cpp's BERT has a WordPiece, not {tokenizer.like}")
    normalizer = rules["normalizer"] or {}
    if not normalizer.get("lowercase"):
        raise UserError("llama.cpp's WordPiece lower-cases, this vocabulary is cased")
    added = any(not each["special"] for each in rules["added_tokens"])
    if (
        not _WORDPIECE.items() <= normalizer.items()
        or normalizer.get("strip_accents") is False
        or rules["pre_tokenizer"] != {"type": "BertPreTokenizer"}
        or added
    ):
        raise UserError("llama.cpp's WordPiece cuts text by BERT's rules, this one not")
    names = set(tokenizer.special_names.values())
    words: dict[str, int] = {}  # in order, with their kinds
    for i, token in enumerate(tokenizer.tokens):
        control = token in names or token.startswith("[unused")
        word = token if control else token[2:] if token[:2] == "##" else f"▁{token}"
        while not word or word in words:  # "##" by itself
            word += "\u0000"
        words[word] = _CONTROL if control else _NORMAL
        if i == special.unknown:
            words[word] = _UNKNOWN
    writer.add_tokenizer_model("bert")
    writer.add_token_list(list(words))
    writer.add_token_types(list(words.values()))
    _add_special(writer, special)
