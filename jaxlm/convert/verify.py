"""An export and the program that it is for, side by side on real text.

    report = verify(ours, out, "hf")      report.lines to print; report.passed

The client runs in a process of its own (`clients.py`), for some abort on what they do
not like, and reads nothing but the export. Both get pages of the shipped novels: the
ids must be equal, then the logits of the same ids, what is likeliest at each place, and
a decoder's greedy text.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.text.sources import SHIPPED
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

# Largest difference of an output, as a share of the largest output.
TOLERANCES = {"hf": 1e-5, "stablehlo": 1e-5, "onnx": 1e-5}
PACKAGES = {
    "hf": ("torch", "transformers"),
    "sentence": ("torch", "sentence_transformers"),
    "gguf": ("xllamacpp",),
    "stablehlo": (),
    "onnx": ("onnxruntime",),
}
NAMES = {
    "hf": "transformers",
    "sentence": "sentence-transformers",
    "gguf": "llama.cpp (xllamacpp)",
    "stablehlo": "jax.export",
    "onnx": "onnxruntime",
}
# llama.cpp's GELU is a table in half precision; of log-probabilities, of unit vectors.
_LLAMA_SCORES = 2e-3
_VECTORS = {"gguf": 1e-3, "sentence": 1e-5}

_TOP, _NEW, _LONGEST = 5, 20, 48


class Reference(NamedTuple):
    """The model as jaxlm runs it."""

    config: ModelConfig
    tokenizer: Tokenizer
    # ids [1, L] → logits, or the last hidden states where there is no head
    outputs: Callable[[np.ndarray], np.ndarray]
    greedy: Callable[[str, int], list[int]]  # a decoder's next ids
    vectors: Callable[[list[str]], np.ndarray]  # a BERT's, as sentence-transformers


class Report(NamedTuple):
    """What was found."""

    lines: list[str]
    passed: bool


def check_client(to: str) -> None:
    """Whether the client of a format is there, before anything is written.

    Raises:
        UserError: it is not; the command that installs it.
    """
    if to == "elmo":
        raise UserError(
            "--verify: the programs that read ELMo's files do not install beside "
            "today's libraries (AllenNLP ended in 2022); export without it"
        )
    lacking = [each for each in PACKAGES[to] if not importlib.util.find_spec(each)]
    if lacking:
        raise UserError(
            f"--verify needs {NAMES[to]}: pip install "
            f"{' '.join(PACKAGES[to]).replace('_', '-')}"
        )


def verify(ours: Reference, out: Path, to: str) -> Report:
    """Compare, and say how they compare.

    Args:
        ours: as read back from `out`.
        out: the export.
        to: its format.
    """
    texts = passages(ours.tokenizer)
    if to == "gguf" and isinstance(ours.config, GptConfig):
        return _verify_scores(ours, out, texts)
    if to in _VECTORS:
        return _verify_vectors(ours, out, to, texts)
    rows = [_row(ours, text) for text in texts]
    new = min(_NEW, ours.config.max_length // 4)
    new = new if to == "hf" and isinstance(ours.config, GptConfig) else 0
    prompts = [_prompt(ours, text, ours.config.max_length - new) for text in texts[:3]]
    asked = {
        "texts": texts,
        "rows": [row.tolist() for row in rows],
        "prompts": [ours.tokenizer.encode(p).ids.tolist() for p in prompts],
        "new": new,
    }
    said, arrays = run_client(to, out, asked)
    lines, passed = [], True
    if said["notes"]:
        lines, passed = [f"{NAMES[to]}: {note}" for note in said["notes"]], False
    if said.get("ids") is not None:
        same = sum(
            a == _plain(ours, t) for a, t in zip(said["ids"], texts, strict=True)
        )
        lines.append(f"ids      equal in {same} of {len(texts)} texts")
        passed &= same == len(texts)
    mine = [ours.outputs(row[None])[0] for row in rows]
    theirs = [arrays[f"outputs_{i}"] for i in range(len(rows))]
    what = "logits" if said["logits"] else "hidden"
    more, good = _compare(mine, theirs, what, TOLERANCES[to])
    lines, passed = lines + more, passed and good
    if asked["new"]:
        line, good = _greedy(ours, prompts, asked, said["greedy"], TOLERANCES[to])
        lines, passed = [*lines, line], passed and good
    return Report(
        [*lines, f"{NAMES[to]} {said['version']}: {_verdict(passed)}"], passed
    )


def verify_task(
    batches: Sequence[dict[str, Any]], mine: list[np.ndarray], out: Path
) -> Report:
    """The same of a fine-tuned model that transformers loads.

    Args:
        batches: arguments of its class by name, each a batch of one example.
        mine: of each example the logits that jaxlm has, [Y], or of each token [L, Y].
        out: the export.
    """
    asked = {"texts": [], "rows": [], "batches": batches, "prompts": [], "new": 0}
    said, arrays = run_client("hf", out, asked)
    lines = [f"{NAMES['hf']}: {note}" for note in said["notes"]]
    theirs = [arrays[f"outputs_{i}"] for i in range(len(mine))]
    line, good = _difference(mine, theirs, "logits", TOLERANCES["hf"])
    lines.append(line)
    if mine[0].shape[-1] > 1:
        pairs = zip(mine, theirs, strict=True)
        same = [a.argmax(-1) == b.argmax(-1) for a, b in pairs]
        equal, total = np.sum([s.sum() for s in same]), np.sum([s.size for s in same])
        lines.append(f"answers  equal in {equal:,} of {total:,}")
    passed = good and not said["notes"]
    verdict = f"{NAMES['hf']} {said['version']}: {_verdict(passed)}"
    return Report([*lines, verdict], passed)


def _verify_vectors(ours: Reference, out: Path, to: str, texts: list[str]) -> Report:
    """Unit vectors of texts."""
    longest = ours.config.max_length
    fits = [_prompt(ours, text, longest - 2, most=60) for text in texts]
    asked = {"texts": fits, "new": 0, "context": longest}
    said, arrays = run_client(to, out, asked)
    theirs = np.stack([arrays[f"vectors_{i}"].reshape(-1) for i in range(len(fits))])
    mine = ours.vectors(fits)
    worst = np.abs(mine - theirs).max()
    cosine = (mine * theirs).sum(-1).min()
    line = f"vectors  max |Δ| {worst:.1e}, least cosine {cosine:.7f}"
    return _judged(to, said, line, float(worst), _VECTORS[to])


def _verify_scores(ours: Reference, out: Path, texts: list[str]) -> Report:
    """llama.cpp's likeliest tokens along its greedy text."""
    longest = ours.config.max_length
    new = min(_NEW, longest // 4)
    prompts = [_prompt(ours, text, longest - new) for text in texts[:3]]
    starts = [ours.tokenizer.encode(p).ids.tolist() for p in prompts]
    asked = {"prompts": starts, "new": new, "context": longest}
    said, _ = run_client("gguf", out, asked)
    deltas, places, equal = [], 0, 0
    for start, found in zip(starts, said["scores"], strict=True):
        ids = [*start, *(id for id, _ in found)]
        logits = ours.outputs(np.array([ids]))[0, len(start) - 1 : -1]
        logits = logits.astype(np.float64)
        peak = logits.max(-1, keepdims=True)
        scores = logits - peak - np.log(np.exp(logits - peak).sum(-1))[:, None]
        for row, (id, top) in zip(scores, found, strict=True):
            deltas += [abs(row[i] - score) for i, score in top]
            places, equal = places + 1, equal + int(row.argmax() == id)
    worst = float(max(deltas))
    line = f"log p    max |Δ| {worst:.1e} of the 5 likeliest at {places} places; "
    line += f"greedy {equal} of {places} tokens equal"
    return _judged("gguf", said, line, worst, _LLAMA_SCORES)


def _judged(to: str, said: Any, line: str, worst: float, tolerance: float) -> Report:
    passed = worst <= tolerance
    verdict = f"{NAMES[to]} {said['version']}: {_verdict(passed)}"
    return Report([f"{line}; tolerance {tolerance:.0e}", verdict], passed)


def _verdict(passed: bool) -> str:
    return "parity" if passed else "NO PARITY"


def _compare(
    mine: list[np.ndarray], theirs: list[np.ndarray], what: str, tolerance: float
) -> tuple[list[str], bool]:
    line, good = _difference(mine, theirs, what, tolerance)
    lines = [line]
    if what == "logits":
        a, b = np.concatenate(mine), np.concatenate(theirs)
        first = (a.argmax(-1) == b.argmax(-1)).sum()
        count = min(_TOP, a.shape[-1])
        sets = [np.sort(np.argpartition(-x, count - 1)[:, :count]) for x in (a, b)]
        all_five = (sets[0] == sets[1]).all(-1).sum()
        lines.append(
            f"top      likeliest token equal at {first:,} of {len(a):,} places, the "
            f"{count} likeliest at {all_five:,}"
        )
    return lines, good


def _difference(
    mine: list[np.ndarray], theirs: list[np.ndarray], what: str, tolerance: float
) -> tuple[str, bool]:
    worst = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))
    scale = max(np.abs(b).max() for b in theirs)
    line = (
        f"{what:<7}  max |Δ| {worst:.1e}, max |{what}| {scale:.3g}: "
        f"{worst / scale:.1e} of it, tolerance {tolerance:.0e}"
    )
    return line, bool(worst <= tolerance * scale)


def _greedy(
    ours: Reference,
    prompts: Sequence[str],
    asked: dict[str, Any],
    theirs: list[list[int]],
    tolerance: float,
) -> tuple[str, bool]:
    """Equal as far as the logits tell the tokens apart."""
    equal = total = 0
    good = True
    for prompt, start, got in zip(prompts, asked["prompts"], theirs, strict=True):
        mine = ours.greedy(prompt, asked["new"])
        same = next(
            (i for i, (a, b) in enumerate(zip(mine, got, strict=False)) if a != b),
            min(len(mine), len(got)),
        )
        equal, total = equal + same, total + max(len(mine), len(got))
        if same < max(len(mine), len(got)):
            scores = ours.outputs(np.array([start + mine[:same]]))[0, -1]
            pair = [scores[each[same]] for each in (mine, got) if same < len(each)]
            tied = len(pair) == 2 and abs(pair[0] - pair[1]) <= (
                2 * tolerance * np.abs(scores).max()
            )
            good &= bool(tied)
    return f"greedy   {equal} of {total} tokens equal", good


def passages(tokenizer: Tokenizer) -> list[str]:
    """Of the shipped texts, in the language that has fewer unknown tokens."""
    unknown = tokenizer.special.unknown if tokenizer.special else -1
    best: tuple[float, list[str]] = (2.0, [])
    for file in sorted(SHIPPED.glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            long = (line.strip() for line in lines if len(line) > 60)
            texts = [line[:400] for line in islice(long, 40, 48)]
        ids = np.concatenate([tokenizer.encode(text).ids for text in texts])
        best = min(best, (float(np.mean(ids == unknown)), texts))
    return best[1]


def _plain(ours: Reference, text: str) -> list[int]:
    ids = ours.tokenizer.encode(text).ids.tolist()
    special = ours.tokenizer.special
    if isinstance(ours.config, BertConfig) and special is not None:
        return [special.cls, *ids, special.sep]
    return ids


def _prompt(ours: Reference, text: str, room: int, most: int = 12) -> str:
    """Its first words, at most so many, that fit."""
    words = text.split()[:most]
    while len(words) > 1 and len(ours.tokenizer.encode(" ".join(words)).ids) > room:
        words.pop()
    return " ".join(words)


def _row(ours: Reference, text: str) -> np.ndarray:
    """The text as the model reads it, every seventh token of a BERT's hidden."""
    ids = np.array(_plain(ours, text))[: min(_LONGEST, ours.config.max_length)]
    special = ours.tokenizer.special
    if isinstance(ours.config, BertConfig) and special is not None:
        ids[3::7] = special.mask
        ids[-1] = special.sep
    return ids


def run_client(
    to: str, out: Path, asked: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a client says of an export, from a process of its own.

    Raises:
        UserError: it did not get to an answer; its last words.
    """
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as scratch:
        question, answer = Path(scratch) / "asked.json", Path(scratch) / "said"
        question.write_text(json.dumps(asked))
        words = [sys.executable, "-m", "jaxlm.convert.clients", to]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*words, str(out), str(question), str(answer)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path.strip(os.pathsep)},
        )
        said = answer.with_suffix(".json")
        if done.returncode or not said.is_file():
            words = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            last = next((w for w in reversed(words) if "rror" in w), words[-1])
            raise UserError(f"{NAMES[to]} cannot use {out}: {last[:500]}")
        with np.load(answer.with_suffix(".npz"), allow_pickle=False) as file:
            return json.loads(said.read_text()), dict(file)
