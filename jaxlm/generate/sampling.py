"""How texts are continued: the arguments of `Model.generate` and of `jaxlm generate`.

Imports no jax, so that `jaxlm generate --help` is fast.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxlm.config.checks import check_fields
from jaxlm.types import UserError

_DRAWN = ("temperature", "top_k", "top_p", "repetition_penalty")  # not used by beams


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How each prompt is continued. Equal settings and seed give equal texts."""

    temperature: Annotated[float, "[0, inf)"] = 1.0
    """Divides the logits; 0: take the likeliest token each time (greedy)."""
    top_k: Annotated[int, "[0, inf)"] = 0
    """Draw from the k likeliest tokens (and ties with the k-th); 0: from all."""
    top_p: Annotated[float, "(0, 1]"] = 1.0
    """Draw from the likeliest tokens whose probabilities sum to this; 1: from all."""
    top_p_rule: Literal["hf", "openai"] = "hf"
    """Whether the token that takes the sum past top_p is kept (hf) or not (openai)."""
    repetition_penalty: Annotated[float, "(0, inf)"] = 1.0
    """Divides positive and multiplies negative logits of tokens that occurred (CTRL,
    Keskar et al. 2019); 1: none."""
    max_tokens: Annotated[int, "[1, inf)"] = 100
    """Most tokens of a continuation."""
    samples: Annotated[int, "[1, 65536]"] = 1
    """Continuations of each prompt."""
    seed: Annotated[int, "[0, 4294967296)"] = 0
    """Seed of the random draws."""
    stop: tuple[str, ...] = ()
    """A continuation ends before any of these strings."""
    beams: Annotated[int, "[0, 65536]"] = 0
    """Width of a beam search, which is not random and gives the --samples best
    continuations; 0: no beam search."""
    length_penalty: float = 1.0
    """Beam search: scores are divided by length to this power; above 0 favours long
    texts, below 0 short ones."""

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.temperature < 1e-6:
            raise UserError(f"temperature = {self.temperature} is too small: take 0")
        if "" in self.stop:
            raise UserError("stop has an empty string, which ends every text at once")
        if self.beams and self.samples > self.beams:
            raise UserError(
                f"samples = {self.samples} of beams = {self.beams}: at most as many"
            )
        for name in _DRAWN if self.beams else ():
            if (value := getattr(self, name)) not in (0, getattr(Sampling, name)):
                raise UserError(f"{name} = {value}: a search with beams draws nothing")
