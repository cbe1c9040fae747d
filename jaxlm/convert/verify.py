"""An export beside the program that it is for, on real text.

    report = verify(jaxlm.load(out), out, "hf")      report.lines ; report.passed

The program runs in a process of its own (`clients.py`), since some abort on what they
do not like, and reads nothing but the export. Both sides get pages of the shipped
novels. Compared are the ids, then the logits of equal ids, the likeliest tokens at each
position, and the greedy text of a decoder.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.text.sources import SHIPPED
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_TOP, _NEW, _LONGEST = 5, 20, 48


class Client(NamedTuple):
    """A program that reads exports."""

    name: str
    packages: tuple[str, ...]
    tolerance: float  # a share of the largest output; of unit vectors, absolute


CLIENTS = {
    "hf": Client("transformers", ("torch", "transformers"), 1e-5),
    "sentence": Client(
        "sentence-transformers", ("torch", "sentence_transformers"), 1e-5
    ),
    # Its GELU is a table in half precision.
    "gguf": Client("llama.cpp (xllamacpp)", ("xllamacpp",), 1e-3),
    "stablehlo": Client("jax.export", ("flatbuffers",), 1e-5),
    "onnx": Client("onnxruntime", ("onnxruntime",), 1e-5),
}
_LLAMA_SCORES = 2e-3  # absolute, of log-probabilities


@dataclass
class Report:
    """What was found: lines to print, and whether all of it is within tolerance."""

    to: str
    out: Path
    lines: list[str] = field(default_factory=list)
    passed: bool = True

    def add(self, line: str, good: Any = True) -> None:
        """A line, and whether what it says is within tolerance."""
        self.lines.append(line)
        self.passed &= bool(good)

    def ask(self, **asked: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The client's answer; what it complains of does not pass."""
        said, arrays = run_client(self.to, self.out, asked)
        for note in said["notes"]:
            self.add(f"{CLIENTS[self.to].name}: {note}", good=False)
        return said, arrays

    def end(self, said: dict[str, Any]) -> Report:
        """The report with its verdict."""
        verdict = "parity" if self.passed else "NO PARITY"
        self.add(f"{CLIENTS[self.to].name} {said['version']}: {verdict}")
        return self

    def compare(
        self, mine: list[np.ndarray], theirs: list[np.ndarray], what: str
    ) -> None:
        """The largest difference of outputs, as a share of the largest output."""
        tolerance = CLIENTS[self.to].tolerance
        worst = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))
        scale = max(np.abs(b).max() for b in theirs)
        self.add(
            f"{what:<7}  max |Δ| {worst:.1e}, max |{what}| {scale:.3g}: "
            f"{worst / scale:.1e} of it, tolerance {tolerance:.0e}",
            worst <= tolerance * scale,
        )


def check_client(to: str) -> None:
    """Check that the client of a format is installed, before anything is written.

    Raises:
        UserError: it is not; the command that installs it.
    """
    if to == "elmo":
        raise UserError(
            "--verify: the programs that read ELMo's files do not install beside "
            "today's libraries (AllenNLP ended in 2022); export without it"
        )
    name, packages, _ = CLIENTS[to]
    if any(not importlib.util.find_spec(package) for package in packages):
        command = f"pip install {' '.join(packages).replace('_', '-')}"
        raise UserError(f"--verify needs {name}: {command}")


def verify(model: Any, out: Path, to: str) -> Report:
    """Compare a model of `jaxlm.load` with what the client of `to` makes of `out`."""
    texts, report = passages(model.tokenizer), Report(to, out)
    decoder = isinstance(model.config, GptConfig)
    if to == "gguf" and decoder:
        return report.end(_compare_scores(report, model, texts))
    if to in ("gguf", "sentence"):
        return report.end(_compare_vectors(report, model, texts))
    return report.end(
        _compare_outputs(report, model, texts, greedy=decoder and to == "hf")
    )


def verify_task(
    batches: Sequence[dict[str, Any]], mine: list[np.ndarray], out: Path
) -> Report:
    """Compare a fine-tuned model with what transformers makes of `out`.

    Args:
        batches: arguments of its class by name, each a batch of one example.
        mine: jaxlm's logits of each example, [Y], or of each of its tokens, [L, Y].
        out: the export.
    """
    report = Report("hf", out)
    said, theirs = report.ask(texts=[], batches=batches, prompts=[], new=0)
    report.compare(mine, theirs, "logits")
    if mine[0].shape[-1] > 1:
        pairs = zip(mine, theirs, strict=True)
        same = np.concatenate(
            [np.ravel(a.argmax(-1) == b.argmax(-1)) for a, b in pairs]
        )
        report.add(f"answers  equal in {same.sum():,} of {same.size:,}")
    return report.end(said)


def _compare_outputs(
    report: Report, model: Any, texts: list[str], *, greedy: bool
) -> dict[str, Any]:
    """Ids, logits or hidden states, and a decoder's greedy text."""
    rows = [_row(model, text) for text in texts]
    new = min(_NEW, model.config.max_length // 4) if greedy else 0
    prompts = _prompts(model, texts[:3] if greedy else [], new)
    starts = [model.tokenizer.encode(prompt).ids.tolist() for prompt in prompts]
    batches = [{"input_ids": [row.tolist()]} for row in rows]
    said, theirs = report.ask(texts=texts, batches=batches, prompts=starts, new=new)
    if "ids" in said:
        pairs = zip(said["ids"], texts, strict=True)
        same = sum(ids == _framed(model, text) for ids, text in pairs)
        report.add(
            f"ids      equal in {same} of {len(texts)} texts", same == len(texts)
        )
    mine = [_outputs(model, row) for row in rows]
    report.compare(mine, theirs, "logits" if said["logits"] else "hidden")
    if said["logits"]:
        _compare_likeliest(report, np.concatenate(mine), np.concatenate(theirs))
    if greedy:
        _compare_greedy(report, model, prompts, starts, said["greedy"], new)
    return said


def _compare_likeliest(report: Report, mine: np.ndarray, theirs: np.ndarray) -> None:
    """The first token, and the set of the first five, at each position."""
    first = (mine.argmax(-1) == theirs.argmax(-1)).sum()
    count = min(_TOP, mine.shape[-1])
    sets = [np.sort(np.argpartition(-x, count - 1)[:, :count]) for x in (mine, theirs)]
    report.add(
        f"top      likeliest token equal at {first:,} of {len(mine):,} places, the "
        f"{count} likeliest at {(sets[0] == sets[1]).all(-1).sum():,}"
    )


def _compare_greedy(
    report: Report,
    model: Any,
    prompts: list[str],
    starts: list[list[int]],
    theirs: list[list[int]],
    new: int,
) -> None:
    """Greedy texts, equal as far as the logits tell the tokens apart."""
    equal = total = 0
    good = True
    tolerance = CLIENTS[report.to].tolerance
    for prompt, start, got in zip(prompts, starts, theirs, strict=True):
        found = model.generate([prompt], max_tokens=new, temperature=0.0)
        mine = found[0].tokens.tolist()
        most = max(len(mine), len(got))
        pairs = enumerate(zip(mine, got, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(mine), len(got)))
        equal, total = equal + same, total + most
        if same < most:
            scores = _outputs(model, [*start, *mine[:same]])[-1]
            either = [scores[each[same]] for each in (mine, got) if same < len(each)]
            near = 2 * tolerance * np.abs(scores).max()
            good &= len(either) == 2 and abs(either[0] - either[1]) <= near
    report.add(f"greedy   {equal} of {total} tokens equal", good)


def _compare_vectors(report: Report, model: Any, texts: list[str]) -> dict[str, Any]:
    """Unit vectors of texts."""
    longest, tolerance = model.config.max_length, CLIENTS[report.to].tolerance
    fits = _prompts(model, texts, new=2, words=60)
    said, arrays = report.ask(texts=fits, prompts=[], context=longest)
    theirs = np.stack([array.reshape(-1) for array in arrays])
    mine = model.embed(fits, pooling="sentence")
    worst, cosine = np.abs(mine - theirs).max(), (mine * theirs).sum(-1).min()
    report.add(
        f"vectors  max |Δ| {worst:.1e}, least cosine {cosine:.7f}; "
        f"tolerance {tolerance:.0e}",
        worst <= tolerance,
    )
    return said


def _compare_scores(report: Report, model: Any, texts: list[str]) -> dict[str, Any]:
    """Log-probabilities of llama.cpp's likeliest tokens along its greedy text."""
    longest = model.config.max_length
    new = min(_NEW, longest // 4)
    prompts = _prompts(model, texts[:3], new)
    starts = [model.tokenizer.encode(prompt).ids.tolist() for prompt in prompts]
    said, _ = report.ask(prompts=starts, new=new, context=longest)
    deltas, places, equal = [], 0, 0
    for start, found in zip(starts, said["scores"], strict=True):
        ids = [*start, *(id for id, _ in found)]
        logits = _outputs(model, ids)[len(start) - 1 : -1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, (id, top) in zip(scores, found, strict=True):
            deltas += [abs(row[i] - score) for i, score in top]
            places, equal = places + 1, equal + int(row.argmax() == id)
    report.add(
        f"log p    max |Δ| {max(deltas):.1e} of the 5 likeliest at {places} places; "
        f"greedy {equal} of {places} tokens equal; tolerance {_LLAMA_SCORES:.0e}",
        max(deltas) <= _LLAMA_SCORES,
    )
    return said


def passages(tokenizer: Tokenizer) -> list[str]:
    """Passages of the shipped text that gives fewer unknown tokens."""
    unknown = tokenizer.special.unknown if tokenizer.special else -1
    best: tuple[float, list[str]] = (2.0, [])
    for file in sorted(SHIPPED.glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            long = (line.strip() for line in lines if len(line) > 60)
            texts = [line[:400] for line in islice(long, 40, 48)]
        ids = np.concatenate([tokenizer.encode(text).ids for text in texts])
        best = min(best, (float(np.mean(ids == unknown)), texts))
    return best[1]


def _outputs(model: Any, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Logits of a row, [L, V]; its last hidden states where there is no head."""
    found = model.forward(np.array([ids]))
    return np.asarray(found.hidden[-1] if found.logits is None else found.logits)[0]


def _framed(model: Any, text: str) -> list[int]:
    """The ids of a text; a BERT's with [CLS] and [SEP]."""
    ids = model.tokenizer.encode(text).ids.tolist()
    special = model.tokenizer.special
    if isinstance(model.config, BertConfig) and special is not None:
        return [special.cls, *ids, special.sep]
    return ids


def _row(model: Any, text: str) -> np.ndarray:
    """The text as the model reads it; every seventh token of a BERT's is masked."""
    ids = np.array(_framed(model, text))[: min(_LONGEST, model.config.max_length)]
    special = model.tokenizer.special
    if isinstance(model.config, BertConfig) and special is not None:
        ids[3::7] = special.mask
        ids[-1] = special.sep
    return ids


def _prompts(model: Any, texts: list[str], new: int, words: int = 12) -> list[str]:
    """The first words of each text, at most `words`, that leave room for `new` ids."""
    room = model.config.max_length - new
    prompts = []
    for text in texts:
        kept = text.split()[:words]
        while len(kept) > 1 and len(model.tokenizer.encode(" ".join(kept)).ids) > room:
            kept.pop()
        prompts.append(" ".join(kept))
    return prompts


def run_client(
    to: str, out: Path, asked: dict[str, Any]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a client says of an export, from a process of its own.

    Raises:
        UserError: it failed; its last words.
    """
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as scratch:
        question, answer = Path(scratch) / "asked.json", Path(scratch) / "answer"
        question.write_text(json.dumps(asked))
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
        words = ["-m", "jaxlm.convert.clients", to, str(out), str(question)]
        done = subprocess.run(
            [sys.executable, *words, str(answer)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path.strip(os.pathsep)},
        )
        said = answer.with_suffix(".json")
        if done.returncode or not said.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            last = next((line for line in reversed(lines) if "rror" in line), lines[-1])
            raise UserError(f"{CLIENTS[to].name} cannot use {out}: {last[:500]}")
        with np.load(answer.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        return json.loads(said.read_text()), arrays
