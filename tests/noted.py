"""What is said in notes."""

import warnings

from jaxlm.types import Note


def noted(call, *args, **options):
    """(The result of a call, its notes)."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", Note)
        result = call(*args, **options)
    return result, tuple(str(w.message) for w in found if w.category is Note)
