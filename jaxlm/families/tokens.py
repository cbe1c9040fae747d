"""What families whose tokens are ids share."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.types import UserError


def token_example(config: Any) -> tuple[Any, ...]:
    """See `Family.example`."""
    del config
    tokens = jnp.zeros((1, 2), jnp.int32)
    return tokens, tokens, jnp.ones((1, 2), bool)


def mask_as_segments(mask: Any) -> dict[str, Any]:
    """A [B, L] mask as the argument `segments` of a module: padding sees padding."""
    if mask is None:
        return {}
    return {"segments": jnp.asarray(mask, bool).astype(jnp.int32)}


def check_tokens(config: Any, tokens: np.ndarray) -> None:
    """Raise a UserError for ids outside the vocabulary, or rows that are too long."""
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < config.vocab_size:
        raise UserError(
            f"token ids run from {tokens.min()} to {tokens.max()}, the vocabulary has "
            f"{config.vocab_size}"
        )
    length = tokens.shape[1]
    if length > config.max_length:
        raise UserError(
            f"{length} tokens, the model has {config.max_length} positions: shorten "
            "the text"
        )
