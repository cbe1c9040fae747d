"""ERNIE's dialogues (DLM): masked words, and whether an utterance is from elsewhere.

The paper trains it "alternatively with the MLM task", of other text, in shares that it
does not say. Here a corpus is of dialogues or of text, and so is a run: the words of a
dialogue are masked by ERNIE's levels, the question takes the place of the next
sentence's, in the same head, and a run begins from another one's weights by `--init`.
`transforms/dialogue.py` says what else the paper leaves open.
"""

import flax.linen as nn

from jaxlm.config import BertConfig, MaskedData, Phase
from jaxlm.objectives.masked import REAL_DIALOGUE, Assembly, masked_rows
from jaxlm.objectives.objective import Objective
from jaxlm.text.manifest import Manifest
from jaxlm.transforms.dialogue import dialogue_row
from jaxlm.transforms.pairs import Row
from jaxlm.types import Rows, UserError

REPLACED = 0.5  # share of rows, as in next-sentence prediction


def dialogue_lm(
    module: nn.Module,
    config: BertConfig,
    data: MaskedData,
    phase: Phase,
    manifest: Manifest,
    *,
    seed: int,
    stream: str,
) -> Objective:
    """Masked words of three turns and, with `config.nsp`, whether they are real.

    Args:
        module: an encoder with an MLM head.
        config: of the model.
        data: rates and kinds of masking.
        phase: shape of the rows.
        manifest: of a corpus of dialogues.
        seed: the run's.
        stream: name of the phase, as of a `data.rows.RowSource`.

    Raises:
        UserError: the corpus is of text, its vocabulary has no [CLS], [SEP], [MASK] and
            [PAD], or the model has no two roles.
    """
    special = manifest.special
    if special is None:
        raise UserError("the corpus's vocabulary has no [CLS] [SEP] [MASK] [PAD]")
    if not manifest.recipe.dialogues:
        raise UserError(
            "the corpus is not of dialogues (text.dialogues): prepare it with this "
            'recipe, from .jsonl with "turns"'
        )
    if config.num_token_types < 2:
        raise UserError(
            f"model.num_token_types = {config.num_token_types}: a dialogue has 2 roles"
        )

    def row(key, rows: Rows) -> Row:
        assert rows.second is not None
        return dialogue_row(
            key,
            rows.first,
            rows.second,
            length=phase.length,
            replaced=REPLACED if config.nsp else 0.0,
            special=special,
        )

    question = REAL_DIALOGUE if config.nsp else None
    assembly = Assembly("dialogues", row, question, manifest.languages)
    return masked_rows(module, data, phase, special, assembly, (seed, stream))
