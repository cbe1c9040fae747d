"""A model's config.json as typed values; what is absent or odd is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.types import UserError


class ConfigJson(NamedTuple):
    """The content of a config.json."""

    path: Path
    values: dict[str, Any]

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number.

        Raises:
            UserError: it is none, or absent without a default.
        """
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{self.path}: {name} = {value!r} is no positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number that is not negative.

        Raises:
            UserError: as `integer`.
        """
        value = self._get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise UserError(f"{self.path}: {name} = {value!r} is no number above 0")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A string.

        Raises:
            UserError: it is none.
        """
        value = self._get(name, default)
        if not isinstance(value, str):
            raise UserError(f"{self.path}: {name} = {value!r} is no text")
        return value

    def must_be(self, name: str, wanted: Any) -> None:
        """A quirk that no model of ours has.

        Raises:
            UserError: this one has it.
        """
        value = self.values.get(name)
        if value is not None and value != wanted:
            raise UserError(
                f"{self.path}: {name} = {value!r} is another model: jaxlm's has "
                f"{wanted!r}"
            )

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is None:
            raise UserError(f"{self.path} has no {name}")
        return default if value is None else value
