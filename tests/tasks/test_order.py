"""Batches of few shapes: every row once a pass, the same shapes in each."""

import numpy as np
import pytest

from jaxlm.tasks.batches import bucket_lengths, one_pass, shuffled
from jaxlm.tasks.rows import NONE
from jaxlm.types import UserError

LENGTHS = np.random.default_rng(0).integers(3, 100, 237)
PADDED = bucket_lengths(LENGTHS, (16, 32, 64, 128), 100)


def test_a_row_takes_the_shortest_bucket_that_holds_it():
    found = bucket_lengths(np.array([3, 16, 17, 64, 65, 100]), (16, 32, 64, 128), 100)
    assert found.tolist() == [16, 16, 32, 64, 100, 100]
    with pytest.raises(UserError, match="a row has 101 tokens"):
        bucket_lengths(np.array([101]), (16,), 100)


@pytest.mark.parametrize("batch", [1, 8, 32, 300])
def test_a_pass_has_each_row_once_in_a_batch_that_holds_it(batch):
    each = shuffled(PADDED, batch, seed=1, stream="train.0")(3)
    there = each.index != NONE
    assert sorted(each.index[there]) == list(range(len(PADDED)))
    for rows, length in zip(each.index, each.lengths, strict=True):
        assert (LENGTHS[rows[rows != NONE]] <= length).all()
    assert (~there).sum() < batch


def test_every_pass_has_the_same_shapes_so_the_first_compiles_them_all():
    pass_of = shuffled(PADDED, 8, seed=1, stream="train.0")
    shapes = [sorted(pass_of(number).lengths) for number in range(20)]
    assert all(each == shapes[0] for each in shapes)
    assert sorted(one_pass(PADDED, 8).lengths) == shapes[0]


def test_an_order_is_a_function_of_seed_stream_and_pass():
    def of(seed=1, stream="s", number=0):
        return shuffled(PADDED, 8, seed=seed, stream=stream)(number).index.tolist()

    assert of() == of()
    assert len({str(of(*each)) for each in ((), (2,), (1, "t"), (1, "s", 1))}) == 4


def test_a_row_s_neighbours_differ_from_pass_to_pass():
    pass_of = shuffled(PADDED, 8, seed=1, stream="s")
    first, second = ({frozenset(b) for b in pass_of(n).index.tolist()} for n in (0, 1))
    assert not first & second
