"""A model's config.json as typed values; what is absent or odd is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.types import UserError

Fields = Mapping[str, tuple[str, Any]]  # our field → their field and its default


class ConfigJson(NamedTuple):
    """The content of a config.json."""

    path: Path
    values: dict[str, Any]

    def fields(self, names: Fields) -> dict[str, Any]:
        """Our fields: positive integers, and numbers that are not negative.

        The type of a default says which one a field is.

        Raises:
            UserError: a value is neither.
        """
        out = {}
        for ours, (theirs, default) in names.items():
            value = self.get(theirs, default)
            kind, least, what = (int, 1, "positive integer")
            if isinstance(default, float):
                kind, least, what = ((int, float), 0, "number above 0")
            good = isinstance(value, kind) and not isinstance(value, bool)
            if not good or value < least:
                raise UserError(f"{self.path}: {theirs} = {value!r} is no {what}")
            out[ours] = type(default)(value)
        return out

    def choice(self, name: str, default: str, known: Mapping[str, str]) -> Any:
        """Our word for one of their words.

        Raises:
            UserError: the word is not known.
        """
        value = self.get(name, default)
        if value not in known:
            raise UserError(
                f"{self.path}: {name} = {value!r} is none of {', '.join(known)}"
            )
        return known[value]

    def must_be(self, **wanted: Any) -> None:
        """Refuse variants that jaxlm's models do not have.

        Raises:
            UserError: a field is there with another value.
        """
        for name, each in wanted.items():
            if self.get(name, each) != each:
                raise UserError(
                    f"{self.path}: {name} = {self.values[name]!r} is another model: "
                    f"jaxlm's has {each!r}"
                )

    def get(self, name: str, default: Any) -> Any:
        """A value, or `default` where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value
