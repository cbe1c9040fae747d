"""sentence-transformers' files beside a model ↔ a `SentenceModel`.

    modules.json                        Transformer, Pooling, then Dense and Normalize
    sentence_bert_config.json           max_seq_length
    config_sentence_transformers.json   prompts
    1_Pooling/config.json  2_Dense/config.json  2_Dense/model.safetensors

Keys and values that jaxlm cannot do are refused, see `config/published.toml`.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.config.published import check
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.tensors import WEIGHTS, open_tensors, write_tensors
from jaxlm.files import read_json, write_json
from jaxlm.models.sentence import ACTIVATIONS, POOLINGS, Dense, SentenceModel
from jaxlm.types import UserError

MODULES = "modules.json"
_TEXTS, _PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
# By what else `_TEXTS` is called, in sentence-transformers' order.
_MODELS = "roberta distilbert camembert albert xlm-roberta xlnet"
# Older keys, in the order in which their vectors are joined.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_REMEDY = "without modules.json the encoder is read alone"


def read_sentence_model(
    directory: Path, config: BertConfig | GptConfig, *, pickle: bool = False
) -> SentenceModel | None:
    """The sentence model of a directory, None where it is none.

    A UserError names a module or key that jaxlm cannot do.
    """
    path = directory / MODULES
    if not path.is_file():
        return None
    modules = read_json(path, list)
    try:
        kinds = [_kind(each, i, path) for i, each in enumerate(modules)]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a list of modules: {error}") from None
    if kinds[:2] != [*_KINDS[:2]] or {*kinds[2:]} - {*_KINDS[2:]}:
        raise UserError(f"{path}: {', '.join(kinds)} are not done here; {_REMEDY}")
    files: dict[str, Any] = {MODULES: modules}

    def read(name: str, kind: str) -> dict[str, Any]:
        content = read_json(directory / name) if (directory / name).is_file() else {}
        check(directory / name, content, kind)
        if content:
            files[name] = content
        return content

    names = [_TEXTS, *(f"sentence_{each}_config.json" for each in _MODELS.split())]
    name = next((each for each in names if (directory / each).is_file()), _TEXTS)
    texts = read(name, "Transformer")
    files.pop(name, None)
    longest = _longest(directory, texts, config)
    _check_side(directory)
    files[_TEXTS] = {**texts, "max_seq_length": longest}
    pool_path = f"{modules[1]['path']}/config.json"
    pool = read(pool_path, "Pooling")
    if not pool:
        raise UserError(f"{directory / pool_path} says no pooling; {_REMEDY}")
    pooling = _pooling(pool, directory / pool_path)
    layers: list[Dense | None] = []
    width = config.d_model * len(pooling)
    for kind, module in zip(kinds[2:], modules[2:], strict=True):
        options = read(f"{module['path']}/config.json", kind)
        layers.append(None)
        if kind == "Dense":
            inside = directory / module["path"]
            layers[-1] = _dense(inside, options, width, pickle=pickle)
            width = len(layers[-1].bias)
    talk = read(_PROMPTS, _PROMPTS)
    prompts, usual = talk.get("prompts") or {}, talk.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or (usual and str(usual) not in prompts):
        raise UserError(f"{directory / _PROMPTS}: prompts has no {usual!r}")
    return SentenceModel(
        pooling,
        tuple(layers),
        longest,
        bool(texts.get("do_lower_case")),
        {name: str(text or "") for name, text in prompts.items()},
        usual,
        pool.get("include_prompt", True),
        files,
    )


def _kind(module: dict[str, Any], number: int, path: Path) -> str:
    """The class of a module, whose files lie in a folder beside `path`."""
    check(path, module)
    package, _, kind = module["type"].rpartition(".")
    folder = module["path"]
    if package.partition(".")[0] != "sentence_transformers" or kind not in _KINDS:
        raise UserError(f"{path}: {module['type']} is not done here; {_REMEDY}")
    if not number and folder != "":
        raise UserError(f"{path}: move the files of {folder} up, beside modules.json")
    if number and (PurePosixPath(folder).name != folder or folder in ("", "..")):
        raise UserError(f"{path}: path {folder!r} is not a folder beside it")
    return kind


def _longest(
    directory: Path, texts: dict[str, Any], config: BertConfig | GptConfig
) -> int:
    """Tokens of a row: as its file says, else as the tokenizer's does."""
    path, name, most = directory / _TEXTS, "max_seq_length", config.max_length
    saved = directory / "tokenizer_config.json"
    if not texts.get(name) and saved.is_file():
        path, name, texts = saved, "model_max_length", read_json(saved)
    found = int(min(ConfigJson(path, texts).number(name, most), most))
    if isinstance(config, BertConfig) and found < 3:
        raise UserError(f"{path}: {name} = {found} has room for no token of a text")
    return found


def _check_side(directory: Path) -> None:
    """Refuse a tokenizer that cuts off the beginning of a long text."""
    for name in ("tokenizer_config.json", "tokenizer.json"):
        path = directory / name
        found = read_json(path) if path.is_file() else {}
        cut = found.get("truncation")  # in one file an object, in the other a flag
        side = found.get("truncation_side") or (
            cut.get("direction") if isinstance(cut, dict) else None
        )
        if str(side or "right").lower() != "right":
            raise UserError(
                f"{path}: truncation_side = {side!r} is not done; {_REMEDY}"
            )


def _pooling(options: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The poolings whose vectors are joined, in order."""
    found = options.get("pooling_mode")
    if found is None:
        found = [mode for key, mode in _MODES.items() if options.get(key)] or ["mean"]
    modes = tuple(found) if isinstance(found, list) else (found,)
    for mode in modes:
        if str(mode) not in POOLINGS:
            this = f"pooling_mode {mode!r} is none of {', '.join(POOLINGS)}"
            raise UserError(f"{path}: {this}")
    return modes


def _dense(folder: Path, options: dict[str, Any], width: int, *, pickle: bool) -> Dense:
    name = str(options.get("activation_function", "torch.nn.Tanh"))
    package, _, activation = name.rpartition(".")
    if package.partition(".")[0] != "torch" or activation not in ACTIVATIONS:
        this = f"activation_function {name} is none of {', '.join(ACTIVATIONS)}"
        raise UserError(f"{folder / 'config.json'}: {this}")
    with open_tensors(folder, pickle=pickle) as tensors:
        found = {name: tensors.read(name) for name in tensors.shapes}
    wanted = {"linear.weight", "linear.bias"} if options.get("bias", True) else set()
    kernel = found.get("linear.weight", np.zeros((0, 0), np.float32)).T
    bias = found.get("linear.bias", np.zeros(kernel.shape[1], np.float32))
    fits = kernel.shape == (width, len(bias))
    if not fits or found.keys() != wanted | {"linear.weight"}:
        this = f"{tensors.shapes}, no Dense of {width} inputs"
        raise UserError(f"{tensors.source} has {this}")
    return Dense(kernel, bias, activation)


def write_sentence_model(directory: Path, sentence: SentenceModel) -> None:
    """Make a model directory one of sentence-transformers."""
    files = sentence.files
    for module in files[MODULES]:
        (directory / module["path"]).mkdir(exist_ok=True)
    for name, content in files.items():
        write_json(directory / name, content)
    path = directory / "tokenizer_config.json"
    known = read_json(path)
    if "eos_token" in known:  # a GPT's rows of several texts are padded with it
        write_json(path, {"pad_token": known["eos_token"], **known})
    for module, layer in zip(files[MODULES][2:], sentence.layers, strict=True):
        if layer:
            arrays = {"linear.weight": layer.kernel.T}
            if files.get(f"{module['path']}/config.json", {}).get("bias", True):
                arrays["linear.bias"] = layer.bias
            shapes = {name: array.shape for name, array in arrays.items()}
            path = directory / module["path"] / WEIGHTS
            write_tensors(path, shapes, arrays.__getitem__, "float32")


def usual_sentence_model(config: BertConfig) -> SentenceModel:
    """The mean of all tokens, of length 1, with the files that say so."""
    modules = []
    for i, name in enumerate(("Transformer", "Pooling", "Normalize")):
        path, kind = f"{i}_{name}" if i else "", f"sentence_transformers.models.{name}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": kind})
    pooling = {
        "word_embedding_dimension": config.d_model,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    length = {"max_seq_length": config.max_length, "do_lower_case": False}
    files = {MODULES: modules, "1_Pooling/config.json": pooling, _TEXTS: length}
    return SentenceModel(max_length=config.max_length, files=files)
