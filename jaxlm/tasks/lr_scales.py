"""Parameter paths → the share of the learning rate that each learns by.

    head, pooler    1
    layer n of N    d^(N - n)      n from 0: the last one d, the first one d^N
    embedding       d^(N + 1)
    frozen          0              no gradient is made of it, and nothing decays

Layer-wise rates as Clark et al. 2020 (ELECTRA), appendix B; freezing by the selector
language: a regular expression over whole paths.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import jax
import numpy as np

from jaxlm.config import TaskConfig
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError


def lr_scales_of(task: TaskConfig, num_layers: int, params: Any) -> Any:
    """A share for each leaf: a number, or of stacked layers an array [N, 1, …].

    None where all learn alike.

    Args:
        task: rates and what is frozen.
        num_layers: N.
        params: arrays or shapes.

    Raises:
        UserError: a selector matches no parameter.
    """
    if task.layer_decay == 1 and not task.freeze:
        return None
    frozen = chosen(task.freeze, params, "freeze")

    def share(path: str, leaf: Any) -> Any:
        if path in frozen:
            return 0.0
        if path.startswith("layers/"):
            each = task.layer_decay ** np.arange(num_layers, 0, -1)
            return each.astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        if path.startswith(("embed/", "words/")):
            return task.layer_decay ** (num_layers + 1)
        return 1.0

    return map_with_path(share, params)


def chosen(patterns: tuple[str, ...], params: Any, name: str) -> set[str]:
    """Paths that one of the patterns matches whole.

    Args:
        patterns: regular expressions.
        params: arrays or shapes.
        name: of the field that they are from.

    Raises:
        UserError: one of them matches nothing.
    """
    paths = [path for path, _ in leaves(params)]
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise UserError(f"--task.{name} {pattern!r}: {error}") from None
        if not matched:
            near = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
            raise UserError(
                f"--task.{name} {pattern!r} matches no parameter; one is {near[0]}"
            )
        found |= matched
    return found


def held(params: Any, shares: Any) -> Any:
    """The parameters, no gradient going to the frozen ones."""
    if shares is None:
        return params

    def one(leaf: Any, share: Any) -> Any:
        frozen = not np.any(share)
        return jax.lax.stop_gradient(leaf) if frozen else leaf

    return jax.tree.map(one, params, shares)
