"""What a family is trained on: rows → batch, batch → sums. See `families/`."""

from jaxlm.objectives.bidirectional import bidirectional_lm
from jaxlm.objectives.causal import causal_lm
from jaxlm.objectives.dialogue import dialogue_lm
from jaxlm.objectives.masked import masked_lm
from jaxlm.objectives.objective import Objective, SampledRows, Sums, stateless

__all__ = [
    "Objective",
    "SampledRows",
    "Sums",
    "bidirectional_lm",
    "causal_lm",
    "dialogue_lm",
    "masked_lm",
    "stateless",
]
