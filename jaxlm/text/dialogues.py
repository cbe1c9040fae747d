"""A record of a dialogue → its turns and who speaks.

    {"turns": ["How old are you?", "8.", "Where is your home?"]}
    {"turns": [{"speaker": "A", "text": "Hello?"}, {"speaker": "A", "text": "Oh!"}, …]}

A dialogue is a line of `.jsonl` and a document of the corpus; a turn is a sentence of
it, however many it has. Turns without speakers alternate. Whoever speaks first is the
first speaker, whatever the name.
"""

from __future__ import annotations

from typing import Any

from jaxlm.text.documents import Fragment
from jaxlm.text.sentences import Errors, Texts, decoded, field, without_surrogates
from jaxlm.types import UserError


def turns_of(fragment: Fragment, errors: Errors = "strict") -> Texts:
    """The turns of a dialogue; those with nothing in them are left out.

    Raises:
        UserError: bytes that are not UTF-8 while `errors` is "strict", or a record that
            is no dialogue of two speakers and two turns or more; with the place.
    """
    line, replaced = decoded(fragment, errors)
    turns, where = field(fragment, line, "turns")
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where} has no "turns", a list of what is said')
    said = [_turn(turn, str(i % 2), where) for i, turn in enumerate(turns)]
    if len({isinstance(turn, str) for turn in turns}) > 1:
        raise UserError(f"{where} names the speakers of some turns only")
    said = [(speaker, text) for speaker, text in said if text]
    speakers = list(dict.fromkeys(speaker for speaker, _ in said))
    if len(speakers) > 2:
        raise UserError(f"{where} has {len(speakers)} speakers: a dialogue has two")
    if len(said) < 2:
        raise UserError(f"{where} has {len(said)} turns: a dialogue has two or more")
    texts = [text for _, text in said]
    return Texts(texts, replaced, second=[who != speakers[0] for who, _ in said])


def _turn(turn: Any, speaker: str, where: str) -> tuple[str, str]:
    match turn:
        case str(text):
            pass
        case {"speaker": str(speaker), "text": str(text)}:
            pass
        case _:
            raise UserError(
                f'{where} has a turn that is neither a string nor {{"speaker", "text"}}'
            )
    return speaker, without_surrogates(text).strip()
