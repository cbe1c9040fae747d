"""How texts are continued: the arguments of `Model.generate` and of `jaxlm generate`.

Imports no jax, so that `jaxlm generate --help` is fast.
"""

from dataclasses import dataclass, fields
from typing import Literal

from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """How a token is chosen from the logits; a constant of the compiled program."""

    temperature: float = 1.0
    """Divides the logits; 0: take the likeliest token each time (greedy)."""
    top_k: int = 0
    """Draw from the k likeliest tokens and those that equal the k-th; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that make up this probability; 1: from all."""
    top_p_rule: Literal["hf", "openai"] = "hf"
    """Whether the token that takes the sum past top_p is kept (hf) or not (openai)."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that occurred (CTRL,
    Keskar et al. 2019); 1: none."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature = {self.temperature} is negative")
        if self.top_k < 0:
            raise UserError(f"top_k = {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p} is not in (0, 1]")
        if self.repetition_penalty <= 0:
            raise UserError(
                f"repetition_penalty = {self.repetition_penalty} is not positive"
            )


@dataclass(frozen=True, kw_only=True)
class Sampling(TokenChoice):
    """How each prompt is continued. Equal settings and seed give equal texts."""

    max_tokens: int = 100
    """Most tokens of a continuation."""
    samples: int = 1
    """Continuations of each prompt."""
    seed: int = 0
    """Seed of the random draws."""
    stop: tuple[str, ...] = ()
    """A continuation ends before any of these strings."""
    beams: int = 0
    """Width of a beam search, which draws nothing and gives the --samples best
    continuations; 0: no beam search."""
    length_penalty: float = 1.0
    """Beam search: scores are divided by length to this power; above 0 favours long
    texts, below 0 short ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise UserError(f"max_tokens = {self.max_tokens} is not positive")
        if self.samples < 1:
            raise UserError(f"samples = {self.samples} is not positive")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed = {self.seed} is not in [0, 2**32)")
        if self.beams and self.samples > self.beams:
            raise UserError(
                f"samples = {self.samples} of beams = {self.beams}: at most as many"
            )

    @property
    def choice(self) -> TokenChoice:
        """The part that a compiled program depends on."""
        names = [field.name for field in fields(TokenChoice)]
        return TokenChoice(**{name: getattr(self, name) for name in names})
