"""bilm-tf's and AllenNLP's `options.json` and `weights.hdf5` → config and parameters.

    config, params = read_elmo("options.json", "weights.hdf5")

The file has one dataset for each of our leaves, layer and direction; `_datasets` lists
them. Two things differ from TensorFlow's variables in name only: the kernel's columns
are gates i, j, f, o in blocks, and the forget gate's bias lacks the 1 that the cell
adds. The table of characters has 261 rows, id 0 of `text/characters.py` excepted.
The softmax is in no such file: the config's vocabulary is 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

from jaxlm.config.model import ElmoConfig
from jaxlm.models.words import CHARACTERS
from jaxlm.types import UserError

Place = Callable[[str, np.ndarray], Any]


def read_elmo(
    options: str | Path,
    weights: str | Path,
    place: Place = lambda path, array: jnp.asarray(array),
) -> tuple[ElmoConfig, dict]:
    """The model in two files.

    Args:
        options: `options.json`, as for training (261 characters) or for use (262).
        weights: `weights.hdf5`.
        place: puts an array where the parameter of that path belongs; by default on
            the default device.

    Returns:
        (config, parameters as a nested dict, float32).

    Raises:
        UserError: a file cannot be read, describes no model of characters, or the two
            do not fit; the message lists every dataset that does not.
    """
    config = read_options(options)
    shapes = _datasets(config)
    try:
        with h5py.File(weights) as file:
            found = _arrays(file)
            _check(shapes, found, weights)
            arrays = {name: np.asarray(found[name], np.float32) for name in shapes}
    except OSError as error:
        raise UserError(f"{weights} cannot be read as HDF5: {error}") from None
    return config, _params(config, arrays, place)


def read_options(path: str | Path) -> ElmoConfig:
    """The config that an `options.json` describes.

    Raises:
        UserError: a key is absent, or has a value that no ELMo of ours can have.
    """
    try:
        options = json.loads(Path(path).read_text(encoding="utf-8"))
        lstm, characters = options["lstm"], options["char_cnn"]
        count, activation = characters["n_characters"], characters["activation"]
        if activation not in ("relu", "tanh"):
            raise UserError(f"{path}: activation {activation!r} is not relu or tanh")
        config = ElmoConfig(
            vocab_size=0,
            num_layers=lstm.get("n_layers", 1),
            d_model=lstm["projection_dim"],
            d_ff=lstm["dim"],
            max_characters=characters["max_characters_per_token"],
            d_character=characters["embedding"]["dim"],
            filters=_by_width(characters["filters"], path),
            num_highways=characters.get("n_highway") or 0,
            activation=activation,
            skip=bool(lstm.get("use_skip_connections")),
            cell_clip=float(lstm.get("cell_clip") or 0),
            proj_clip=float(lstm.get("proj_clip") or 0),
            dropout=options.get("dropout", 0.1),
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as options: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} has no option {error}") from None
    # One table, two ways to number it: training counts the 261 characters, use a
    # padding before them.
    if count not in (CHARACTERS, CHARACTERS + 1):
        raise UserError(
            f"{path}: n_characters = {count}, it is {CHARACTERS} in training and "
            f"{CHARACTERS + 1} in use"
        )
    if config.d_ff <= config.d_model:
        raise UserError(
            f"{path}: lstm.dim = {config.d_ff} is not above projection_dim = "
            f"{config.d_model}: LSTMs without a projection are not read"
        )
    return config


def _by_width(filters: list[list[int]], path: str | Path) -> tuple[int, ...]:
    """How many filters there are over 1, 2, 3 … characters."""
    widths = [width for width, _ in filters]
    if widths != sorted(set(widths)) or min(widths, default=1) < 1:
        raise UserError(f"{path}: filters have widths {widths}, not ascending ones")
    counts = [0] * max(widths, default=0)
    for width, number in filters:
        counts[width - 1] = number
    return tuple(counts)


def _datasets(config: ElmoConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of all that the file must hold."""
    d, f, e = config.d_model, config.d_ff, config.d_character
    total = sum(config.filters)
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (CHARACTERS, e)}
    for i, (width, number) in enumerate(_widths(config)):
        shapes[f"CNN/W_cnn_{i}"] = (1, width, e, number)
        shapes[f"CNN/b_cnn_{i}"] = (number,)
    for i in range(config.num_highways):
        for gate in ("carry", "transform"):
            shapes[f"CNN_high_{i}/W_{gate}"] = (total, total)
            shapes[f"CNN_high_{i}/b_{gate}"] = (total,)
    if total != d:
        shapes["CNN_proj/W_proj"] = (total, d)
        shapes["CNN_proj/b_proj"] = (d,)
    for direction in range(2):
        for layer in range(config.num_layers):
            cell = _cell(direction, layer)
            shapes[f"{cell}/W_0"] = (2 * d, 4 * f)
            shapes[f"{cell}/B"] = (4 * f,)
            shapes[f"{cell}/W_P_0"] = (f, d)
    return shapes


def _widths(config: ElmoConfig) -> list[tuple[int, int]]:
    return [(w, n) for w, n in enumerate(config.filters, start=1) if n]


def _cell(direction: int, layer: int) -> str:
    return f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


def _arrays(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, each: Any) -> None:
        if isinstance(each, h5py.Dataset):
            found[name] = each

    file.visititems(visit)
    return found


def _check(
    shapes: dict[str, tuple[int, ...]],
    found: dict[str, h5py.Dataset],
    path: str | Path,
) -> None:
    problems = []
    for name, shape in shapes.items():
        if name not in found:
            problems.append(f"  - {name} {shape} is not in the file")
        elif found[name].shape != shape:
            problems.append(f"  - {name} {shape} has shape {found[name].shape}")
    problems += [
        f"  + {name} {found[name].shape} has no use" for name in {*found} - {*shapes}
    ]
    if "char_embed" in found and found["char_embed"].shape[0] == CHARACTERS + 1:
        problems.append(
            f"  the table has {CHARACTERS + 1} characters: a model trained with "
            f"n_characters = {CHARACTERS + 1}, which reads every word one byte off"
        )
    if problems:
        raise UserError(
            f"{path} does not fit its options:\n" + "\n".join(sorted(problems))
        )


def _params(config: ElmoConfig, arrays: dict[str, np.ndarray], place: Place) -> dict:
    words: dict[str, Any] = {"embed/table": arrays["char_embed"]}
    for i, (width, _) in enumerate(_widths(config)):
        words[f"filters_{width}/kernel"] = arrays[f"CNN/W_cnn_{i}"][0]
        words[f"filters_{width}/bias"] = arrays[f"CNN/b_cnn_{i}"]
    for gate in ("carry", "transform") if config.num_highways else ():
        for ours, theirs in (("kernel", "W"), ("bias", "b")):
            words[f"highways/{gate}/{ours}"] = np.stack(
                [
                    arrays[f"CNN_high_{i}/{theirs}_{gate}"]
                    for i in range(config.num_highways)
                ]
            )
    if "CNN_proj/W_proj" in arrays:
        words["projection/kernel"] = arrays["CNN_proj/W_proj"]
        words["projection/bias"] = arrays["CNN_proj/b_proj"]
    leaves = {f"words/{name}": array for name, array in words.items()}
    d, f = config.d_model, config.d_ff
    for ours, theirs, shape in (
        ("kernel", "W_0", (2 * d, 4, f)),
        ("bias", "B", (4, f)),
        ("projection", "W_P_0", (f, d)),
    ):
        leaves[f"layers/{ours}"] = np.stack(
            [
                [arrays[f"{_cell(g, n)}/{theirs}"].reshape(shape) for g in range(2)]
                for n in range(config.num_layers)
            ]
        )
    params: dict = {}
    for path, array in leaves.items():
        *above, name = path.split("/")
        inside = params
        for each in above:
            inside = inside.setdefault(each, {})
        inside[name] = place(path, array)
    return params
