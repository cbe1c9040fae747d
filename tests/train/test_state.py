"""What a run starts from: pretrained parameters, new ones, and what is said of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.train.state import NewParams, Pretrained, merge
from jaxlm.types import UserError

TABLE = "embed/token/table"


def tree(rows: int, **more):
    draw = np.random.default_rng(rows)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape), jnp.float32)

    heads = {name: {"kernel": normal(*shape)} for name, shape in more.items()}
    return {"embed": {"token": {"table": normal(rows, 4)}}, **heads}


def merged(params, random, new=None):
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), random
    )
    return merge(Pretrained("models/a at step 5", params), abstract, random, new)


def test_what_the_directory_lacks_starts_at_random_and_is_named():
    theirs, random = tree(6), tree(6, mlm=(4, 4), nsp=(4, 2))
    params, notes = merged(theirs, random)
    np.testing.assert_array_equal(
        params["embed"]["token"]["table"], theirs["embed"]["token"]["table"]
    )
    assert params["mlm"]["kernel"] is random["mlm"]["kernel"]
    assert notes == [
        "parameters of models/a at step 5",
        "initialised at random: mlm/kernel, nsp/kernel",
    ]


def test_pretraining_takes_all_or_says_which_do_not_fit():
    theirs, random = tree(6, mlm=(4, 4), nsp=(4, 2)), tree(7, mlm=(4, 4))
    with pytest.raises(UserError) as error:
        merged(theirs, random)
    assert str(error.value).splitlines() == [
        "--init models/a at step 5 does not fit this config:",
        "  ≠ embed/token/table  expected float32[7, 4], found float32[6, 4]",
        "  + nsp/kernel  found float32[4, 2], not expected",
    ]


def test_a_task_leaves_heads_out_starts_anew_where_asked_and_grows_a_table():
    theirs, random = tree(6, mlm=(4, 4), pooler=(4, 4)), tree(9, pooler=(4, 4))
    params, notes = merged(theirs, random, NewParams({"pooler/kernel"}, {TABLE: 5}))
    table = np.asarray(params["embed"]["token"]["table"])
    np.testing.assert_array_equal(table[:5], theirs["embed"]["token"]["table"][:5])
    np.testing.assert_array_equal(table[5:], random["embed"]["token"]["table"][5:])
    assert params["pooler"]["kernel"] is random["pooler"]["kernel"]
    assert notes[1:] == [
        f"initialised at random: pooler/kernel, {TABLE} from row 5 on",
        "not used: mlm",
    ]
    theirs["mlm"]["bias"] = np.zeros(4, np.float32)
    _, notes = merged(theirs, tree(6, mlm=(4, 4), pooler=(4, 4)), NewParams((), {}))
    assert notes[1:] == ["not used: mlm/bias"]
    with pytest.raises(UserError, match=r"≠ pooler/kernel .* found float32\[4, 4\]"):
        merged(theirs, tree(6, pooler=(4, 3)), NewParams((), {}))


def test_a_table_without_its_padding_is_taken_with_zeros():
    theirs, random = tree(6), tree(128)
    params, _ = merged(theirs, random)
    table = np.asarray(params["embed"]["token"]["table"])
    np.testing.assert_array_equal(table[:6], theirs["embed"]["token"]["table"])
    assert not table[6:].any()
