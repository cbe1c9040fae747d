"""Rules over parameter paths: regular expression → value, exactly one for each leaf.

    RULES = ((r"embed/.*", "frozen"), (r"layers/.*", "trained"))
    match(RULES, params)      a tree like params with the value of the rule of each leaf

Each leaf must match exactly one rule and each rule at least one leaf, so a renamed
parameter is an error and never gets a default silently. Sharding, weight decay,
freezing, layer-wise rates and weight conversion all use rules.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

_VOCABULARY = ("embed/token/table", "mlm/bias", "softmax/table", "softmax/bias")


def path_of(keys: Iterable[Any]) -> str:
    """A key path of jax as text, for example `layers/mlp/wi/kernel`."""
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys
    )


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) pairs, sorted by path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return sorted((path_of(keys), leaf) for keys, leaf in flat)


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` with a function whose first argument is the path."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, *each: function(path_of(keys), *each), tree, *rest
    )


def is_padded(path: str) -> bool:
    """Whether a leaf has a row for each word of a vocabulary, and zeros as padding."""
    return path.endswith(_VOCABULARY)


def padded_rows(vocab_size: int) -> int:
    """The rows of such a leaf: a multiple of 128, to suit matrix units and meshes."""
    return -(-vocab_size // 128) * 128


def lacks_padding(path: str, wanted: Any, found: Any) -> bool:
    """Whether `found` is the leaf `wanted` without its padding, as in old files."""
    (rows, *rest), (has, *others) = wanted.shape or (0,), found.shape or (0,)
    fits = has < rows == padded_rows(has) and rest == others
    return fits and is_padded(path) and wanted.dtype == found.dtype


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each leaf that is on one side only (−, +) or differs (≠).

    A lack of padding is no difference.
    """
    lines = []
    for path in sorted({*wanted, *found}):
        here, there = (
            f"{side[path].dtype}{list(side[path].shape)}" if path in side else ""
            for side in (wanted, found)
        )
        if not there:
            lines.append(f"  - {path}  expected {here}, not found")
        elif not here:
            lines.append(f"  + {path}  found {there}, not expected")
        elif here != there and not lacks_padding(path, wanted[path], found[path]):
            lines.append(f"  ≠ {path}  expected {here}, found {there}")
    return lines


def match(
    rules: Sequence[tuple[str, Any]], tree: Any, *, families: bool = False
) -> Any:
    """A tree like `tree` with the value of the rule that each leaf's path matches.

    Rules are (regular expression over whole paths, value). ValueError if a leaf matches
    no rule or several, or if a rule matches no leaf (allowed with `families`).
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    used: set[int] = set()
    problems: list[str] = []
    paths = [path for path, _ in leaves(tree)]

    def value_of(path: str, _leaf: Any) -> Any:
        hits = [i for i, (pattern, _) in enumerate(compiled) if pattern.fullmatch(path)]
        used.update(hits)
        if len(hits) != 1:
            which = " and ".join(repr(rules[i][0]) for i in hits) or "no rule"
            problems.append(f"  {path} matches {which}")
            return None
        return compiled[hits[0]][1]

    values = map_with_path(value_of, tree)
    for i, (pattern, _) in enumerate(rules):
        if i not in used and not families:
            near = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
            hint = f" (nearest leaf: {near[0]})" if near else ""
            problems.append(f"  rule {pattern!r} matches no leaf{hint}")
    if problems:
        raise ValueError(
            "selector rules do not cover the tree:\n" + "\n".join(problems)
        )
    return values
