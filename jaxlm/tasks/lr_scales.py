"""Parameter paths → factors on the learning rate.

    head, pooler    1
    layer n of N    d^(N - n)      n from 0: the last layer d, the first one d^N
    embedding       d^(N + 1)
    frozen          0              no gradient, no decay

Layer-wise rates as in Clark et al. 2020 (ELECTRA), appendix B. Parameters are frozen by
regular expressions over whole paths.
"""

import difflib
import re
from typing import Any

import jax
import numpy as np

from jaxlm.config import TaskConfig
from jaxlm.sharding import stacked
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError

_EMBEDDING = re.compile(r"(.*/)?(embed|words)/.*")


def lr_scales_of(task: TaskConfig, num_layers: int, params: Any) -> Any:
    """A factor for each leaf, an array [N, 1, …] for stacked layers; None: all are 1.

    Args:
        num_layers: N of the encoder.
        params: arrays or shapes.
    """
    if task.layer_decay == 1 and not task.freeze:
        return None
    frozen = select(task.freeze, params, "freeze")

    def scale(path: str, leaf: Any, layers: bool) -> Any:
        if path in frozen:
            return 0.0
        if _EMBEDDING.fullmatch(path):
            return task.layer_decay ** (num_layers + 1)
        if layers:
            each = task.layer_decay ** np.arange(leaf.shape[0], 0, -1)
            return each.astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        return 1.0

    return map_with_path(scale, params, stacked(params))


def select(patterns: tuple[str, ...], params: Any, field: str) -> set[str]:
    """The paths that a regular expression matches whole.

    Args:
        params: arrays or shapes.
        field: of the task's config, for messages.

    Raises:
        UserError: a pattern matches no parameter.
    """
    paths = [path for path, _ in leaves(params)]
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise UserError(f"--task.{field} {pattern!r}: {error}") from None
        if not matched:
            near = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
            raise UserError(
                f"--task.{field} {pattern!r} matches no parameter; one is {near[0]}"
            )
        found |= matched
    return found


def stop_frozen(params: Any, lr_scales: Any) -> Any:
    """The parameters, without gradients of the frozen ones."""
    if lr_scales is None:
        return params
    return jax.tree.map(
        lambda leaf, scale: leaf if np.any(scale) else jax.lax.stop_gradient(leaf),
        params,
        lr_scales,
    )
