"""Arrays in memory."""

import numpy as np
import pytest

from jaxlm.memory import transposed


@pytest.mark.parametrize("shape", [(1, 1), (16, 5), (17, 33), (40, 1), (0, 3)])
def test_a_transposed_matrix_is_its_transpose(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for each in (matrix, matrix[:, ::-1], matrix[::2]):
        out = transposed(each)
        assert out.flags.c_contiguous and out.base is None
        np.testing.assert_array_equal(out, each.T)
