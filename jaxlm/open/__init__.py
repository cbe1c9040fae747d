"""`jaxlm.load`: a run or model directory → a model: forward, embed, fill, generate."""

from jaxlm.open.directory import load
from jaxlm.open.model import Guess, Model

__all__ = ["Guess", "Model", "load"]
