"""Modules that only some formats need: imported when they are wanted."""

import importlib
from typing import Any

from jaxlm.types import UserError


def optional(module: str, use: str, package: str = "") -> Any:
    """The module that `use` needs.

    Raises:
        UserError: it is not installed; the pip command, for `package` where that is not
            the module's name.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{use} needs {module}: pip install {package or module}"
        ) from None
