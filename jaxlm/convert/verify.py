"""An export beside the program that it is for, on real text.

    report = verify(jaxlm.load(out), out, "hf")      report.lines ; report.passed

The program runs in a process of its own (`clients.py`), since some abort on what they
do not like, and reads nothing but the export. Both sides get pages of the shipped
novels. Compared are the ids, then the logits of equal ids, the likeliest tokens at each
position, and the greedy text of a decoder.
"""

import importlib.metadata
import importlib.util
import lzma
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.config.model import GptConfig
from jaxlm.text.sources import SHIPPED
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_TOP, _NEW, _LONGEST = 5, 20, 48


class Client(NamedTuple):
    """A program that reads exports."""

    name: str
    packages: tuple[str, ...]  # the last one is the program's
    tolerance: float  # a share of the largest output; of unit vectors, absolute


CLIENTS = {
    "hf": Client("transformers", ("torch", "transformers"), 1e-5),
    "sentence": Client(
        "sentence-transformers", ("torch", "sentence_transformers"), 1e-5
    ),
    # Its GELU is a table in half precision.
    "gguf": Client("llama.cpp (xllamacpp)", ("xllamacpp",), 1e-3),
    "stablehlo": Client("jax.export", ("flatbuffers", "jax"), 1e-5),
    "onnx": Client("onnxruntime", ("onnxruntime",), 1e-5),
}
_LLAMA_SCORES = 2e-3  # absolute, of log-probabilities


@dataclass
class Comparison:
    """A model of `jaxlm.load` beside what a client makes of its export."""

    model: Any
    out: Path
    to: str
    lines: list[str] = field(default_factory=list)  # to print
    passed: bool = True  # all is within tolerance

    def add(self, line: str, good: Any = True) -> None:
        """A line, and whether what it says is within tolerance."""
        self.lines.append(line)
        self.passed &= bool(good)

    def ask(self, **asked: Any) -> dict[str, Any]:
        """The client's answer; a complaint of the client does not pass."""
        answer = run_client(self.to, self.out, asked)
        for note in answer.get("notes", ()):
            self.add(f"{CLIENTS[self.to].name}: {note}", good=False)
        return answer

    def end(self, answer: dict[str, Any]) -> "Comparison":
        """The comparison with its verdict."""
        verdict = "parity" if self.passed else "NO PARITY"
        self.add(f"{CLIENTS[self.to].name} {answer['version']}: {verdict}")
        return self

    def compare(self, mine: list[np.ndarray], answer: dict[str, Any]) -> None:
        """The largest difference of outputs, as a share of the largest output."""
        theirs, what = answer["outputs"], answer["what"]
        tolerance = CLIENTS[self.to].tolerance
        worst = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))
        scale = max(np.abs(b).max() for b in theirs)
        self.add(
            f"{what:<7}  max |Δ| {worst:.1e}, max |{what}| {scale:.3g}: "
            f"{worst / scale:.1e} of it, tolerance {tolerance:.0e}",
            worst <= tolerance * scale,
        )

    def outputs(self, texts: list[str]) -> "Comparison":
        """Ids, logits or hidden states, and a decoder's greedy text."""
        rows = [self._row(text) for text in texts]
        decoder = self.to == "hf" and isinstance(self.model.config, GptConfig)
        new = min(_NEW, self.model.config.max_length // 4) if decoder else 0
        prompts = self._prompts(texts[:3] if decoder else [], new)
        answer = self.ask(
            texts=texts,
            batches=[{"input_ids": [row]} for row in rows],
            prompts=[self._ids(prompt) for prompt in prompts],
            new=new,
        )
        if "ids" in answer:
            pairs = zip(answer["ids"], texts, strict=True)
            same, count = sum(a == self._framed(b) for a, b in pairs), len(texts)
            self.add(f"ids      equal in {same} of {count} texts", same == count)
        outputs = [self._forward(row) for row in rows]
        self.compare(outputs, answer)
        if (
            answer["what"] == "logits"
        ):  # the first token and the first five, in any order
            mine, theirs = np.concatenate(outputs), np.concatenate(answer["outputs"])
            first = (mine.argmax(-1) == theirs.argmax(-1)).sum()
            count = min(_TOP, mine.shape[-1])
            a, b = (np.argpartition(-x, count - 1)[:, :count] for x in (mine, theirs))
            self.add(
                f"top      likeliest token equal at {first:,} of {len(mine):,} places, "
                f"the {count} likeliest at {(np.sort(a) == np.sort(b)).all(-1).sum():,}"
            )
        if decoder:
            self._greedy(prompts, answer["greedy"], new)
        return self.end(answer)

    def _greedy(self, prompts: list[str], theirs: list[list[int]], new: int) -> None:
        """Greedy texts, equal as far as the logits tell the tokens apart."""
        equal = total = 0
        good = True
        for prompt, got in zip(prompts, theirs, strict=True):
            found = self.model.generate([prompt], max_tokens=new, temperature=0.0)
            mine = found[0].tokens.tolist()
            most = max(len(mine), len(got))
            pairs = enumerate(zip(mine, got, strict=False))
            least = min(len(mine), len(got))
            same = next((i for i, (a, b) in pairs if a != b), least)
            equal, total = equal + same, total + most
            if same < most:
                scores = self._forward([*self._ids(prompt), *mine[:same]])[-1]
                tied = [scores[each[same]] for each in (mine, got) if same < len(each)]
                near = 2 * CLIENTS[self.to].tolerance * np.abs(scores).max()
                good &= len(tied) == 2 and abs(tied[0] - tied[1]) <= near
        self.add(f"greedy   {equal} of {total} tokens equal", good)

    def vectors(self, texts: list[str]) -> "Comparison":
        """Unit vectors of texts."""
        longest, tolerance = self.model.config.max_length, CLIENTS[self.to].tolerance
        fits = self._prompts(texts, new=2, words=60)
        answer = self.ask(texts=fits, prompts=[], context=longest)
        theirs, mine = (
            np.stack(answer["outputs"]),
            self.model.embed(fits, pooling="sentence"),
        )
        worst, cosine = np.abs(mine - theirs).max(), (mine * theirs).sum(-1).min()
        self.add(
            f"vectors  max |Δ| {worst:.1e}, least cosine {cosine:.7f}; "
            f"tolerance {tolerance:.0e}",
            worst <= tolerance,
        )
        return self.end(answer)

    def scores(self, texts: list[str]) -> "Comparison":
        """Log-probabilities of llama.cpp's likeliest tokens along its greedy text."""
        longest = self.model.config.max_length
        new = min(_NEW, longest // 4)
        starts = [self._ids(prompt) for prompt in self._prompts(texts[:3], new)]
        answer = self.ask(prompts=starts, new=new, context=longest)
        deltas, equal = [], []
        for start, found in zip(starts, answer["scores"], strict=True):
            logits = self._forward([*start, *(id for id, _ in found)])
            scores = np.asarray(jax.nn.log_softmax(logits[len(start) - 1 : -1]))
            for row, (id, top) in zip(scores, found, strict=True):
                deltas += [abs(row[i] - score) for i, score in top]
                equal.append(row.argmax() == id)
        worst, places = max(deltas), len(equal)
        self.add(
            f"log p    max |Δ| {worst:.1e} of the 5 likeliest at {places} places; "
            f"greedy {sum(equal)} of {places} tokens equal; tolerance "
            f"{_LLAMA_SCORES:.0e}",
            worst <= _LLAMA_SCORES,
        )
        return self.end(answer)

    def _forward(self, ids: list[int]) -> np.ndarray:
        """Logits of a row, [L, V]; its last hidden states where there is no head."""
        found = self.model.forward(np.array([ids]))
        logits = found.logits
        return np.asarray(found.hidden[-1] if logits is None else logits)[0]

    def _ids(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text).ids.tolist()

    def _framed(self, text: str) -> list[int]:
        """The ids of a text with what the family puts around it."""
        frame = self.model.family.frame(self.model.config, self.model.tokenizer)
        return frame.row(self.model.tokenizer.encode(text).ids).tolist()

    def _row(self, text: str) -> list[int]:
        """The start of a text as the model reads it, with masks where it fills them."""
        ids = self._framed(text)[: min(_LONGEST, self.model.config.max_length)]
        if self.model.family.fills:
            special = self.model.tokenizer.special
            ids[3::7] = [special.mask] * len(ids[3::7])
            ids[-1] = special.sep
        return ids

    def _prompts(self, texts: list[str], new: int, words: int = 12) -> list[str]:
        """The first words of each text that leave room for `new` ids."""
        prompts, room = [], self.model.config.max_length - new
        for text in texts:
            kept = text.split()[:words]
            while len(kept) > 1 and len(self._ids(" ".join(kept))) > room:
                kept.pop()
            prompts.append(" ".join(kept))
        return prompts


def check_client(to: str) -> None:
    """Check that the client of a format is installed, before anything is written."""
    if to == "elmo":
        raise UserError(
            "--verify: the programs that read ELMo's files do not install beside "
            "today's libraries (AllenNLP ended in 2022); export without it"
        )
    name, packages, _ = CLIENTS[to]
    lacking = [each for each in packages if not importlib.util.find_spec(each)]
    if lacking:
        command = f"pip install {' '.join(lacking).replace('_', '-')}"
        raise UserError(f"--verify needs {name}: {command}")


def verify(model: Any, out: Path, to: str) -> Comparison:
    """Compare a model of `jaxlm.load` with what the client of `to` makes of `out`."""
    found, texts = Comparison(model, out, to), passages(model.tokenizer)
    if to == "gguf" and isinstance(model.config, GptConfig):
        return found.scores(texts)
    return found.vectors(texts) if to in ("gguf", "sentence") else found.outputs(texts)


def verify_task(
    batches: Sequence[dict[str, Any]], mine: list[np.ndarray], out: Path
) -> Comparison:
    """Compare a fine-tuned model with what transformers makes of `out`.

    Args:
        batches: arguments of its class by name, each a batch of one example.
        mine: jaxlm's logits of each example, [Y], or of each of its tokens, [L, Y].
        out: the export.
    """
    found = Comparison(None, out, "hf")
    answer = found.ask(texts=[], batches=batches, prompts=[], new=0)
    found.compare(mine, answer)
    if mine[0].shape[-1] > 1:
        pairs = zip(mine, answer["outputs"], strict=True)
        same = np.hstack([np.ravel(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])
        found.add(f"answers  equal in {same.sum():,} of {same.size:,}")
    return found.end(answer)


def passages(tokenizer: Tokenizer) -> list[str]:
    """Passages in the language whose shipped text has fewer unknown tokens."""
    unknown = tokenizer.special.unknown if tokenizer.special else -1
    best: tuple[float, list[str]] = (2.0, [])
    for file in sorted(SHIPPED.glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            long = (line.strip() for line in lines if len(line) > 60)
            texts = [line[:400] for line in islice(long, 40, 48)]
        ids = np.concatenate([tokenizer.encode(text).ids for text in texts])
        best = min(best, (float(np.mean(ids == unknown)), texts))
    return best[1]


def run_client(to: str, out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What a client says of an export, from a process of its own; see `clients.py`."""
    name, packages, _ = CLIENTS[to]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as scratch:
        file = Path(scratch) / "asked"
        file.write_bytes(pickle.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-m", "jaxlm.convert.clients", to, str(out), str(file)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                **quiet,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            last = next((line for line in reversed(lines) if "rror" in line), lines[-1])
            raise UserError(f"{name} cannot use {out}: {last[:500]}")
        answer = pickle.loads(file.read_bytes())
    return {**answer, "version": importlib.metadata.version(packages[-1])}
