"""The tests check the types of calls, and the shapes that annotations name."""

import jax.numpy as jnp
import pytest

from jaxlm.losses import cross_entropy
from jaxlm.text.characters import word_characters
from jaxlm.types import plural

LOGITS, WEIGHTS = jnp.zeros((2, 3, 4)), jnp.ones((2, 3))
WRONG = {
    "a type": (word_characters, {"a", "b"}),
    "a type, in a module that imports for annotations": (plural, "2", "row"),
    "a shape": (cross_entropy, LOGITS, jnp.zeros((1, 3), int), WEIGHTS),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_noticed(call, request):
    if request.config.getoption("--without-checks"):
        pytest.skip("without checks")
    function, *inputs = call
    with pytest.raises(Exception, match=r"violates|Type-check"):
        function(*inputs)
