"""Selectors are total: each leaf one rule, each rule a leaf, or an error with both."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.tree import leaves, map_with_path, match

TREE = {
    "embed": {"table": 1, "norm": {"scale": 2, "bias": 3}},
    "layers": {"wi": {"kernel": 4, "bias": 5}},
}


class Pair(NamedTuple):
    mu: object
    nu: object


def test_each_leaf_gets_the_value_of_its_one_rule():
    rules = (
        (r".*/(kernel|table)", "decay"),
        (r".*/bias", "none"),
        (r"embed/norm/scale", None),
    )
    assert match(rules, TREE) == {
        "embed": {"table": "decay", "norm": {"scale": None, "bias": "none"}},
        "layers": {"wi": {"kernel": "decay", "bias": "none"}},
    }


def test_a_pattern_must_match_the_whole_path():
    with pytest.raises(ValueError, match=r"embed/norm/scale matches no rule") as error:
        match(((r"embed", 0), (r"layers/.*", 0)), TREE)
    text = str(error.value)
    assert "rule 'embed' matches no leaf (nearest leaf: embed/table)" in text
    assert "layers" not in text.replace("layers/.*", "")


def test_all_problems_are_named_at_once():
    rules = ((r".*/bias", 1), (r"layers/.*", 2), (r"pooler/kernel", 3))
    with pytest.raises(ValueError) as error:
        match(rules, TREE)
    assert str(error.value).splitlines() == [
        "selector rules do not cover the tree:",
        "  embed/norm/scale matches no rule",
        "  embed/table matches no rule",
        "  layers/wi/bias matches '.*/bias' and 'layers/.*'",
        "  rule 'pooler/kernel' matches no leaf (nearest leaf: layers/wi/kernel)",
    ]


def test_a_rule_that_only_matches_together_with_others_is_not_unused():
    with pytest.raises(ValueError) as error:
        match(((r".*", 1), (r"embed/table", 2)), TREE)
    assert "matches no leaf" not in str(error.value)


def test_paths_of_every_kind_of_node():
    tree = {"state": Pair(mu={"b": jnp.ones(2), "a": 0}, nu=(1, [2])), "none": None}
    paths = ["state/mu/a", "state/mu/b", "state/nu/0", "state/nu/1/0"]
    assert [path for path, _ in leaves(tree)] == paths
    named = map_with_path(lambda path, leaf, other: (path, other), {"a": 1}, {"a": 2})
    assert named == {"a": ("a", 2)}


def test_shapes_will_do_instead_of_arrays():
    shapes = jax.eval_shape(lambda: {"kernel": jnp.ones((2, 3))})
    assert match(((r"kernel", "x"),), shapes) == {"kernel": "x"}


@settings(deadline=None, max_examples=50)
@given(st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8))
def test_one_rule_a_leaf_always_covers_a_tree(names):
    tree = {"root": {name: i for i, name in enumerate(sorted(names))}}
    rules = tuple((f"root/{name}", name) for name in names)
    assert match(rules, tree) == {"root": {name: name for name in names}}
    # Without any one of them it never does.
    for i in range(len(rules)):
        with pytest.raises(ValueError, match=f"{rules[i][0]} matches no rule"):
            match(rules[:i] + rules[i + 1 :], tree)
