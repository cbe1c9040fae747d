"""Tags of words ↔ entities, by the rules of conlleval, and their F1.

    EU    rejects  German  call        BIO     B-ORG O B-MISC O
    ORG            MISC                BIOES   S-ORG O S-MISC O     (also BMES, BILOU)

An entity goes on while tags of its type follow that do not begin one; a tag that should
go on and has nothing before it begins one (seqeval's default; Tjong Kim Sang 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# What other schemes call B, I, E and S.
_SAME = {"M": "I", "L": "E", "U": "S"}
_BEGINS, _ENDS = ("B", "S"), ("E", "S")


class Entity(NamedTuple):
    """Words `start` … `end` - 1 of a sentence."""

    start: int
    end: int
    kind: str


def parts_of(tag: str) -> tuple[str, str] | None:
    """("B", "ORG") of B-ORG, ("O", "") of O; None: it is no such tag."""
    if tag == "O":
        return "O", ""
    place, dash, kind = tag[:1], tag[1:2], tag[2:]
    place = _SAME.get(place, place)
    if place not in "BIES" or not place or dash not in ("-", "_") or not kind:
        return None
    return place, kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order."""
    found, start = [], 0
    place_before, kind_before = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        place, kind = parts_of(tag) or ("O", "")
        same = kind == kind_before
        goes_on = place not in ("O", *_BEGINS) and same and place_before not in _ENDS
        if kind_before and not goes_on:
            found.append(Entity(start, i, kind_before))
        if kind and not goes_on:
            start = i
        place_before, kind_before = place, kind
    return found


def as_bio(tags: Sequence[str]) -> list[str]:
    """The same entities with B at the first word of each and I at the others."""
    out = ["O"] * len(tags)
    for start, end, kind in entities(tags):
        out[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return out


def entity_figures(
    truth: Sequence[Sequence[str]], answer: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of whole entities; accuracy of words."""
    right = asked = said = words = equal = 0
    for want, got in zip(truth, answer, strict=True):
        ours, theirs = set(entities(got)), set(entities(want))
        right += len(ours & theirs)
        asked, said = asked + len(theirs), said + len(ours)
        words += len(want)
        equal += sum(a == b for a, b in zip(want, got, strict=True))
    return {
        "entity_f1": 2 * right / max(1, asked + said),
        "precision": right / max(1, said),
        "recall": right / max(1, asked),
        "entities": float(asked),
        "accuracy": equal / max(1, words),
    }
