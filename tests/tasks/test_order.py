"""Batches of few shapes: every row once a pass, the same shapes in each."""

import numpy as np
import pytest

from jaxlm.tasks.batches import bucket_lengths, one_pass, shuffled
from jaxlm.tasks.task import NONE
from jaxlm.types import UserError

LENGTHS = np.random.default_rng(0).integers(3, 100, 237)
ORDER = {"seed": 1, "stream": "train.0"}
PADDED = bucket_lengths(LENGTHS, (16, 32, 64, 128), 100)


def test_a_row_takes_the_shortest_bucket_that_holds_it():
    found = bucket_lengths(np.array([3, 16, 17, 64, 65, 100]), (16, 32, 64, 128), 100)
    assert found.tolist() == [16, 16, 32, 64, 100, 100]
    with pytest.raises(UserError, match="a row has 101 tokens"):
        bucket_lengths(np.array([101]), (16,), 100)


def passes(count, batch, **order):
    """The batches of each of the first passes."""
    a_pass = -(-len(PADDED) // batch)
    plan = shuffled(PADDED, batch, count * a_pass, **{**ORDER, **order})
    index = plan.index.reshape(count, a_pass, batch)
    return index, plan.lengths.reshape(count, a_pass)


@pytest.mark.parametrize("batch", [1, 8, 32, 300])
def test_a_pass_has_each_row_once_in_a_batch_that_holds_it(batch):
    for index, lengths in zip(*passes(3, batch), strict=True):
        there = index != NONE
        assert sorted(index[there]) == list(range(len(PADDED)))
        for rows, length in zip(index, lengths, strict=True):
            assert (LENGTHS[rows[rows != NONE]] <= length).all()
        assert (~there).sum() < batch


def test_every_pass_has_the_same_shapes_so_the_first_compiles_them_all():
    shapes = np.sort(passes(20, 8)[1])
    assert (shapes == shapes[0]).all()
    assert np.sort(one_pass(PADDED, 8).lengths).tolist() == shapes[0].tolist()


def test_batches_are_a_function_of_seed_stream_and_pass():
    first, second = passes(2, 8)[0].tolist()
    others = [
        passes(1, 8, **other)[0][0].tolist() for other in ({"seed": 2}, {"stream": "t"})
    ]
    assert len({str(each) for each in (first, second, *others)}) == 4
    # However many there are.
    few = shuffled(PADDED, 8, 7, **ORDER)
    assert few.index.tolist() == first[:7] and len(few.lengths) == 7


def test_a_row_s_neighbours_differ_from_pass_to_pass():
    first, second = ({frozenset(b) for b in each.tolist()} for each in passes(2, 8)[0])
    assert not first & second
