"""Batches of few shapes: every row once a pass, the same shapes in each."""

import numpy as np
import pytest

from jaxlm.tasks.order import NONE, bucket_lengths, dealt, in_order, shuffled
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
    there = each.rows != NONE
    assert sorted(each.rows[there]) == list(range(len(PADDED)))
    for rows, length in zip(each.rows, each.lengths, strict=True):
        assert (LENGTHS[rows[rows != NONE]] <= length).all()
    assert (~there).sum() < batch


def test_every_pass_has_the_same_shapes_so_the_first_compiles_them_all():
    pass_of = shuffled(PADDED, 8, seed=1, stream="train.0")
    shapes = [sorted(pass_of(number).lengths) for number in range(20)]
    assert all(each == shapes[0] for each in shapes)
    assert sorted(in_order(PADDED, 8).lengths) == shapes[0]


def shuffled_rows(batch, **draw):
    pass_of = shuffled(PADDED, batch, **draw)
    return lambda number: pass_of(number).rows


def dealt_rows(batch, **draw):
    return dealt(LENGTHS, batch, **draw)


@pytest.mark.parametrize("make", [shuffled_rows, dealt_rows])
def test_an_order_is_a_function_of_seed_stream_and_pass(make):
    def of(seed=1, stream="s", number=0):
        return make(8, seed=seed, stream=stream)(number).tolist()

    assert of() == of()
    assert len({str(of(*each)) for each in ((), (2,), (1, "t"), (1, "s", 1))}) == 4


@pytest.mark.parametrize("make", [shuffled_rows, dealt_rows])
def test_a_row_s_neighbours_differ_from_pass_to_pass(make):
    pass_of = make(8, seed=1, stream="s")
    first, second = ({frozenset(b) for b in pass_of(n).tolist()} for n in (0, 1))
    assert not first & second


@pytest.mark.parametrize("batch", [1, 8, 32, 300])
def test_a_pass_of_dealt_batches_has_each_row_once(batch):
    rows = dealt(LENGTHS, batch, seed=1, stream="train.0")(3)
    there = rows != NONE
    assert rows.shape == (-(-len(LENGTHS) // batch), batch)
    assert sorted(rows[there]) == list(range(len(LENGTHS)))


def test_a_dealt_batch_has_a_row_of_each_range_of_lengths():
    rows = dealt(LENGTHS[:232], 8, seed=1, stream="s")(0)
    ranked = np.sort(LENGTHS[:232]).reshape(8, 29)
    found = np.sort(LENGTHS[rows])
    assert (ranked[:, 0] <= found).all() and (found <= ranked[:, -1]).all()
    # Of batches drawn without ranges, totals differ several times as much.
    totals = LENGTHS[rows].sum(1)
    drawn = LENGTHS[np.random.default_rng(0).permutation(232).reshape(29, 8)].sum(1)
    assert totals.std() < drawn.std() / 3


def test_a_row_is_dealt_to_all_batches_alike():
    pass_of = dealt(LENGTHS[:32], 4, seed=1, stream="s")  # 8 batches
    at = np.array([np.nonzero(pass_of(number) == 5)[0][0] for number in range(800)])
    counts = np.bincount(at, minlength=8)
    assert len(counts) == 8 and (abs(counts - 100) < 5 * 100**0.5).all()
