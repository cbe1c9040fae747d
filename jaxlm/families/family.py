"""What a family of models is, as one record: the choices in which families differ.

`families/__init__.py` has the tuple of all records; each family's own is in the file of
its name. Outside this folder and `convert/` nothing asks which family a model is of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxlm.families.frame import Frame
from jaxlm.objectives import Objective
from jaxlm.objectives.figures import Figure

Config = Any  # the family's own dataclass of config/model.py


def nothing_carried(config: Config, rows: int) -> tuple[()]:
    """The carry of a model that has no state."""
    del config, rows
    return ()


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. Every function takes the family's own config or module."""

    name: str  # as in the config's field `family`
    article: str  # "a BERT"
    purpose: str  # what `jaxlm` verb fits: "fill fills its blanks"
    config: Any  # the class
    # (config, dtype=, remat=) → the module that is pretrained, with `example()`.
    build: Callable[..., Any]
    # (config, dtype=, remat=) → the module that `encode` reads; its parameters lie
    # among those of `build` under the same names.
    encoder: Callable[..., Any]
    # (config, tokenizer, task=False) → how rows are put together; UserError where the
    # vocabulary lacks what they need. `task`: rows of a task that is fine-tuned.
    frame: Callable[..., Frame]
    # (encoder, tokens, token_types, mask, segments=None, carry=(), logits=False,
    # deterministic=True) → (Encoded, carry): all layers [N+1, B, L, D] at the tokens
    # of framed rows. To be called where the encoder is bound.
    encode: Callable[..., tuple[Any, Any]]
    # (config) → tokens, token types and mask of a row, to initialise on.
    example: Callable[[Config], tuple[Any, ...]]
    # (config, tokens, token_types, mask) → the arguments of the module for raw arrays,
    # by position and by name; UserError where the ids or shapes do not fit.
    inputs: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    # (run, module, manifest, phase, stream) → what is learnt in pretraining.
    objective: Callable[..., Objective]
    # (run) → the figures that the objective declares.
    figures: Callable[[Any], tuple[Figure, ...]]
    # (config, length, predictions) → FLOP of one row through all layers, and of its
    # predictions through the head.
    forward_flops: Callable[[Config, int, int], int]
    # (run, phase) → FLOP of one update.
    train_flops: Callable[[Any, Any], int]
    # (config) → numbers that only pad the vocabulary.
    padding: Callable[[Config], int] = lambda config: 0
    # (config) → tokens of a long text that are read at once.
    window: Callable[[Config], int] = lambda config: config.max_length
    # (config, vocab_size=, pooler=) → the config of a task's encoder: with the task's
    # own tokens, and a pooler only if it is read; UserError where there is none.
    for_task: Callable[..., Config] = lambda config, vocab_size, pooler: config
    # (config) → width of a token's hidden state.
    width: Callable[[Config], int] = lambda config: config.d_model
    # (config, params) → what is missing to predict words and the remedy; "" if nothing.
    missing_head: Callable[[Config, Any], str] = lambda config, params: ""
    # (config, rows) → the state that goes from batch to batch, before the first one.
    zero_carry: Callable[[Config, int], Any] = nothing_carried
    task_tokens: tuple[str, ...] = ()  # that a task adds behind the vocabulary
    bidirectional: bool = True  # a token sees what comes after it
    has_cls: bool = False  # rows begin with a token that stands for the whole row
    fills: bool = False  # predicts [MASK]
    packs: bool = False  # several examples may share a row

    @property
    def stateful(self) -> bool:
        """Whether a row goes on from the row before it."""
        return self.config.carries_state
