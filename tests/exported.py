"""Model directories of tiny random models, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxlm.config import GptConfig, ModelConfig, TextConfig, bert, gpt1, gpt2
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_directory import export_model, read_model
from jaxlm.families import parameter_shapes
from jaxlm.text.tokenizers import Tokenizer, train_tokenizer
from jaxlm.text.tokenizers.bpe import Gpt1Bpe
from jaxlm.tree import is_padded, leaves, map_with_path

WEIGHTS = "model.safetensors"
SHAPE: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "d_model": 16}
CONFIGS: dict[str, ModelConfig] = {
    "bert": bert("tiny", vocab_size=150, d_ff=24, max_length=40, **SHAPE),
    "bert without pairs": bert(
        "tiny", vocab_size=150, d_ff=24, max_length=40, nsp=False, **SHAPE
    ),
    "ernie": bert(
        "tiny",
        vocab_size=150,
        d_ff=24,
        max_length=41,
        activation="relu",
        norm_eps=1e-5,
        **SHAPE,
    ),
    "roformer": bert(
        "tiny",
        vocab_size=150,
        d_ff=24,
        max_length=40,
        positions="rope",
        nsp=False,
        num_layers=2,
        num_heads=2,
        d_model=20,
    ),
    "modernbert": bert(
        "tiny",
        vocab_size=150,
        d_ff=20,
        max_length=48,
        positions="rope",
        norm="pre",
        norm_eps=1e-5,
        gated=True,
        biases=False,
        num_token_types=0,
        nsp=False,
        window=6,
        rope_base=300.0,
        local_rope_base=40.0,
        num_layers=5,
        num_heads=3,
        d_model=18,
    ),
    "gpt1": gpt1(vocab_size=150, d_ff=64, max_length=40, **SHAPE),
    "gpt2": gpt2("tiny", vocab_size=300, d_ff=24, max_length=40, **SHAPE),
}
GPT1 = gpt1(
    vocab_size=150, d_ff=256, max_length=40, num_layers=2, num_heads=1, d_model=64
)
SENTENCES = ["It was a truth that nobody acknowledged.", "She was out of the house."]


def tokenizer_of(config: ModelConfig) -> Tokenizer:
    """A tokenizer with `config.vocab_size` entries."""
    size = config.vocab_size
    if not isinstance(config, GptConfig):
        return train_tokenizer(SENTENCES, TextConfig(), size)
    if config.norm == "pre":
        return train_tokenizer(
            SENTENCES, TextConfig(tokenizer="byte_bpe", verbatim=True), size
        )
    letters = "abcdefghijklmnopqrstuvwxyz.,\n"
    tokens = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges = [(a, f"{b}</w>") for a in "thea" for b in letters[:26]]
    tokens += ["".join(pair) for pair in merges]
    count = size - 2 * len(letters) - 1
    return Gpt1Bpe(tokens[:size], merges[:count])


def random_params(config: ModelConfig, seed: int = 0) -> Any:
    """Random values for every leaf, also biases and scales: a swapped leaf shows."""
    random = np.random.RandomState(seed)
    shapes = parameter_shapes(config)
    values = {
        path: random.standard_normal(leaf.shape).astype(np.float32) * 0.2
        for path, leaf in leaves(shapes)
    }
    for path in filter(is_padded, values):
        values[path][config.vocab_size :] = 0
    if getattr(config, "layout", "") == "modernbert":  # no file has this norm
        values["layers/attention_norm/scale"][0] = 1
    return map_with_path(lambda path, _: jnp.asarray(values[path]), shapes)


def export(
    out: Path, name: str, seed: int = 0, *, digests: bool = False, **options: Any
) -> Any:
    """Write a Hugging Face directory of one of `CONFIGS`; return its parameters.

    Without `digests` a test may change the files.
    """
    config = CONFIGS[name]
    params = random_params(config, seed)
    export_model(
        out,
        from_params(config, params),
        tokenizer_of(config),
        origin={"test": name},
        **options,
    )
    if not digests:
        (out / "jaxlm_export.json").unlink()
    return params


def openai(directory: Path, params: Any) -> None:
    """Write `GPT1` as finetune-transformer-lm (train.py) has it: positions, tokens,
    then twelve a layer."""
    h = params["layers"]
    tensors = [params["embed"]["position"]["table"], params["embed"]["token"]["table"]]
    tensors[1] = tensors[1][: GPT1.vocab_size]
    for i in range(GPT1.num_layers):
        joined = {
            leaf: np.concatenate(
                [
                    np.reshape(h["attention"][name][leaf][i], (shape, -1))
                    for name in ("query", "key", "value")
                ],
                axis=-1,
            )
            for leaf, shape in (("kernel", 64), ("bias", 1))
        }
        out = h["attention"]["out"]
        tensors += [
            joined["kernel"][None],
            joined["bias"][0],
            np.reshape(out["kernel"][i], (1, 64, 64)),
            out["bias"][i],
            h["attention_norm"]["scale"][i],
            h["attention_norm"]["bias"][i],
            h["mlp"]["wi"]["kernel"][i][None],
            h["mlp"]["wi"]["bias"][i],
            h["mlp"]["wo"]["kernel"][i][None],
            h["mlp"]["wo"]["bias"][i],
            h["mlp_norm"]["scale"][i],
            h["mlp_norm"]["bias"][i],
        ]
    flat = np.concatenate([np.ravel(each) for each in tensors]).astype(np.float32)
    for i, piece in enumerate(np.array_split(flat, 10)):
        np.save(directory / f"params_{i}.npy", piece)
    shapes = [list(np.shape(each)) for each in tensors]
    (directory / "params_shapes.json").write_text(json.dumps(shapes))
    tokenizer_of(GPT1).save(directory)


def same(one: Any, other: Any) -> None:
    """Assert that two trees are equal bit for bit."""
    mine, theirs = dict(leaves(one)), dict(leaves(other))
    assert mine.keys() == theirs.keys()
    for path, leaf in mine.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def modernbert_tokenizer(texts: list[str], size: int) -> Any:
    """A tokenizer of the parts of ModernBERT's: NFC, byte-level BPE, added tokens of
    several kinds, a [MASK] that takes the space before, a frame."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from tokenizers.processors import TemplateProcessing

    library: Any = Tokenizer(models.BPE())
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 34,
        special_tokens=["|||IP_ADDRESS|||", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    runs = [AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)]
    library.add_tokens([*runs, AddedToken("|||EMAIL_ADDRESS|||", normalized=True)])
    special = ["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    library.add_special_tokens([*special, AddedToken("[MASK]", lstrip=True)])
    left = size - library.get_vocab_size()
    unused = [AddedToken(f"[unused{i}]", normalized=True) for i in range(left)]
    library.add_tokens(unused)
    library.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[(each, library.token_to_id(each)) for each in special[2:4]],
    )
    return library


def read(directory):
    """The model of a directory, in memory."""
    return read_model(directory, lambda _, array: jnp.asarray(array))


def edit(directory, change):
    """Change the tensors of a directory."""
    tensors = load_file(directory / WEIGHTS)
    tensors = change(tensors) or tensors
    save_file(tensors, directory / WEIGHTS)
