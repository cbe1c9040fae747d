"""Compare an export, run by the program that it is for, with jaxlm on real text.

    report = verify(jaxlm.load(out), out, "hf")      report.lines ; report.passed

The program runs in a separate process (`clients.py`), since some programs abort on
errors, and it reads only the export. Both sides get pages of the shipped novels. The
comparison is of ids, of logits for equal ids, of the likeliest tokens at each position,
and of the greedy text of a decoder.
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
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import jax
import numpy as np

from jaxlm.convert.elmo import files_of
from jaxlm.convert.sentence import MODULES
from jaxlm.files import read_json, temporary
from jaxlm.text.sources import SHIPPED
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_TOP, _NEW, _LONGEST, _SHOWN = 5, 20, 48, 5
# Texts that tokenizers cut differently. `_probes` adds words of the vocabulary, and the
# client texts with its added tokens, which these texts lack.
_PROBES = (
    "Crème brûlée, naïve Ångström; Straße, İzmir, Ωμέγα, e\u0301a\u0308, ÉCOLE",
    "北京大学在1898年成立，漢字かな混じり文、한국어 텍스트",
    "NASA and McDonald's: CAPITALS, CamelCase, don't, WE'LL",
    "😀👍🏽 👩‍👩‍👧 ❤️ 🇫🇷 ok",
    "3.14159 1,000,000 0x7F 12:30 ½ ² №5 ٣٤٥ 2024-01-31",
    " two  spaces\u00a0and\ta tab\r\n\n a line, “quotes” – x\u00ady\u200bz \ufeff",
    "supercalifragilisticexpialidocious" * 4,
    "supercalifragilisticexpialidocious" * 6,
    "",
)


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
_LOG_P = 2e-3  # tolerance of log-probabilities, absolute


class Comparison:
    """A report in lines: the outputs of an export's client, compared with jaxlm's."""

    def __init__(self, out: Path, to: str, **asked: Any):
        self.client = CLIENTS[to]
        self.lines: list[str] = []  # to print
        self.passed = True  # all is within tolerance
        self.answer = run_client(to, out, asked)
        for note in self.answer.get("notes", ()):
            self.add(f"{self.client.name}: {note}", good=False)

    def add(self, line: str, good: Any = True) -> None:
        """Add a line to the report; the comparison fails unless the line is `good`."""
        self.lines.append(line)
        self.passed &= bool(good)

    def ids(self, model: Any) -> None:
        """Compare the ids of texts; where they differ, show both lists of tokens."""
        known, lines, equal = model.tokenizer, [], 0
        answers = zip(self.answer["texts"], self.answer["ids"], strict=True)
        for text, theirs in answers:
            mine = _framed(model, text)
            equal += mine == theirs
            if mine != theirs and len(lines) < 3 * _SHOWN:
                lines.append(f"  {text!r}")
                for name, ids in (("jaxlm", mine), (self.client.name, theirs)):
                    size = known.vocab_size
                    words = [known.token(i) if i < size else f"<{i}>" for i in ids]
                    lines.append(f"    {name:<12}  {' '.join(words)}")
        count = len(self.answer["ids"])
        lines.insert(0, f"ids      equal in {equal} of {count} texts")
        self.add("\n".join(lines), equal == count)

    def outputs(self, mine: list[np.ndarray]) -> None:
        """Compare outputs: the largest difference as a share of the largest output."""
        theirs, what = self.answer["outputs"], self.answer["what"]
        tolerance = self.client.tolerance
        worst = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))
        scale = max(np.abs(b).max() for b in theirs)
        share = f"{worst / scale:.1e} of it, tolerance {tolerance:.0e}"
        line = f"{what:<7}  max |Δ| {worst:.1e}, max |{what}| {scale:.3g}: {share}"
        self.add(line, worst <= tolerance * scale)

    def likeliest(self, mine: np.ndarray) -> None:
        """Compare the likeliest token, and the five likeliest, at each position."""
        count, theirs = (
            min(_TOP, mine.shape[-1]),
            np.concatenate(self.answer["outputs"]),
        )
        first = (mine.argmax(-1) == theirs.argmax(-1)).sum()
        a, b = (np.argpartition(-x, count - 1)[:, :count] for x in (mine, theirs))
        self.add(
            f"top      likeliest token equal at {first:,} of {len(mine):,} places, the "
            f"{count} likeliest at {(np.sort(a) == np.sort(b)).all(-1).sum():,}"
        )

    def vectors(self, mine: np.ndarray) -> None:
        """Compare vectors of texts, relative to the longest one."""
        theirs, tolerance = np.stack(self.answer["outputs"]), self.client.tolerance
        lengths = [np.linalg.norm(each, axis=-1) for each in (mine, theirs)]
        worst = np.abs(mine - theirs).max() / lengths[1].max()
        cosine = ((mine * theirs).sum(-1) / (lengths[0] * lengths[1])).min()
        line = f"vectors  max |Δ| {worst:.1e}, least cosine {cosine:.7f}"
        self.add(f"{line}; tolerance {tolerance:.0e}", worst <= tolerance)

    def greedy(self, mine: list[np.ndarray]) -> None:
        """Compare greedy texts by our logits of the tokens that the client chose.

        Tokens whose logits are equal within tolerance count as good.
        """
        logits, chosen = np.concatenate(mine), np.concatenate(self.answer["greedy"])
        short = logits.max(-1) - logits[np.arange(len(logits)), chosen]
        near = 2 * self.client.tolerance * np.abs(logits).max()
        if "tops" in self.answer:
            log_p = np.asarray(jax.nn.log_softmax(logits))
            pairs = zip(log_p, self.answer["tops"], strict=True)
            worst = max(abs(row[i] - score) for row, top in pairs for i, score in top)
            where = f"of the {_TOP} likeliest at {len(chosen)} places"
            line = f"log p    max |Δ| {worst:.1e} {where}; tolerance {_LOG_P:.0e}"
            self.add(line, worst <= _LOG_P)
        self.add(
            f"greedy   {(short == 0).sum()} of {len(chosen)} tokens equal",
            (short <= near).all(),
        )

    def end(self) -> "Comparison":
        """The comparison with its verdict."""
        verdict = "parity" if self.passed else "NO PARITY"
        self.add(f"{self.client.name} {self.answer['version']}: {verdict}")
        return self


def check_client(to: str) -> None:
    """Raise an error if the client of a format is not installed."""
    if to == "elmo":
        raise UserError(
            "--verify: the programs that read ELMo's files do not install beside "
            "today's libraries (AllenNLP ended in 2022); go on without it"
        )
    name, packages, _ = CLIENTS[to]
    lacking = [each for each in packages if not importlib.util.find_spec(each)]
    if lacking:
        command = f"pip install {' '.join(lacking).replace('_', '-')}"
        raise UserError(f"--verify needs {name}: {command}")


def check_source(directory: Path) -> None:
    """Check that the programs that read the source of an import are installed."""
    check_client("elmo" if files_of(directory) else "hf")
    if (directory / MODULES).is_file():
        check_client("sentence")


def verify(
    model: Any, out: Path, to: str, source: Path | None = None, **more: Any
) -> Comparison:
    """Compare a model of `jaxlm.load` with its export `out`, run by the client.

    `source` is the directory that `out` was imported from, to be run instead of it;
    `more` are further questions to the client.
    """
    texts, longest = passages(model.tokenizer), model.config.max_length
    new, decoder = min(_NEW, longest // 4), not model.family.bidirectional
    vectors, prompts = to == "sentence" or (to == "gguf" and not decoder), []
    if to == "sentence":
        texts = [*texts, *_PROBES[:-1], " ".join(texts)]  # the last one is truncated
    elif vectors:  # llama.cpp truncates none
        most = (model.sentence and model.sentence.max_length) or longest
        texts = [_first_words(model, text, 60, most - 2) for text in texts]
    elif decoder and to in ("hf", "gguf"):
        starts = (_first_words(model, text, 12, longest - new) for text in texts[:3])
        prompts = [model.tokenizer.encode(start).ids.tolist() for start in starts]
    probes = _probes(model.tokenizer)
    rows = [_row(model, text) for text in (*texts, " ".join(probes))]
    batches = [{"input_ids": [row]} for row in rows]
    asked = {"texts": texts, "batches": batches, "prompts": prompts, "new": new}
    if to == "hf":
        # A text that a decoder continues has no frame, in transformers' pipeline, too.
        asked |= {"texts": [*probes, *texts], "framed": not decoder}
    found = Comparison(source or out, to, **asked, context=longest, **more)
    if "ids" in found.answer:
        found.ids(model)
    if vectors:
        mine = model.embed(texts, pooling="sentence")
        if to == "gguf":  # llama.cpp's server scales vectors to length 1
            mine /= np.linalg.norm(mine, axis=-1, keepdims=True)
        found.vectors(mine)
    elif "outputs" in found.answer:
        mine = [_forward(model, row) for row in rows]
        found.outputs(mine)
        if found.answer["what"] == "logits":
            found.likeliest(np.concatenate(mine))
    if prompts:
        pairs = zip(prompts, found.answer["greedy"], strict=True)
        found.greedy([_forward(model, a + b)[len(a) - 1 : -1] for a, b in pairs])
    return found.end()


def verify_import(
    model: Any, out: Path, directory: Path, *, tokenizer: Path | None, dtype: str
) -> list[Comparison]:
    """Compare an imported model, `jaxlm.load(out)`, with what transformers makes of its
    source, `directory`, whose weights the client first rounds to `dtype`."""
    if not (directory / "config.json").is_file():
        found = verify(model, out, "hf")
        found.add(f"transformers reads no {directory}: these figures are of {out}")
        return [found]
    kind = read_json(out / "config.json")["architectures"][0]
    words = tokenizer or directory
    words = words if words.is_dir() else words.parent
    more = {"kind": kind, "dtype": dtype, "tokenizer": str(words)}
    found = [verify(model, out, "hf", directory, **more)]
    if model.sentence and not tokenizer:
        found.append(verify(model, out, "sentence", directory, dtype=dtype))
    return found


def _forward(model: Any, ids: list[int]) -> np.ndarray:
    """The logits of a row, [L, V]; without a head, its last hidden states."""
    found = model.forward(np.array([ids]))
    return np.asarray(found.hidden[-1] if found.logits is None else found.logits)[0]


def _framed(model: Any, text: str) -> list[int]:
    """The ids of a text with the special tokens of the family."""
    frame = model.family.frame(model.config, model.tokenizer)
    return frame.row(model.tokenizer.encode(text, specials=True).ids).tolist()


def _row(model: Any, text: str) -> list[int]:
    """The ids of a text's start; for a BERT, some tokens are [MASK]."""
    ids = _framed(model, text)[: min(_LONGEST, model.config.max_length)]
    if model.family.fills:
        ids[3::7] = [model.tokenizer.special.mask] * len(ids[3::7])
        ids[-1] = model.tokenizer.special.sep
    return ids


def _first_words(model: Any, text: str, count: int, longest: int) -> str:
    """The start of a text: at most `count` words and `longest` ids."""
    words = text.split()[:count]
    while len(words) > 1 and len(model.tokenizer.encode(" ".join(words)).ids) > longest:
        words.pop()
    return " ".join(words)


def verify_task(
    batches: Sequence[dict[str, Any]], mine: list[np.ndarray], out: Path
) -> Comparison:
    """Compare a fine-tuned model with its export `out`, run by transformers.

    `batches` are arguments of transformers' class, each with one example; `mine` are
    jaxlm's logits of each example, [Y], or of each of its tokens, [L, Y].
    """
    found = Comparison(out, "hf", texts=[], batches=batches, prompts=[])
    found.outputs(mine)
    if mine[0].shape[-1] > 1:
        pairs = zip(mine, found.answer["outputs"], strict=True)
        same = np.hstack([np.ravel(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])
        found.add(f"answers  equal in {same.sum():,} of {same.size:,}")
    return found.end()


def passages(tokenizer: Tokenizer) -> list[str]:
    """Passages of a shipped text, in the language that gives fewer unknown tokens."""
    unknown = tokenizer.special.unknown if tokenizer.special else -1
    best: tuple[float, list[str]] = (2.0, [])
    for file in sorted(SHIPPED.glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            long = (line.strip() for line in lines if len(line) > 60)
            texts = [line[:400] for line in islice(long, 40, 48)]
        ids = np.concatenate([tokenizer.encode(text).ids for text in texts])
        best = min(best, (float(np.mean(ids == unknown)), texts))
    return best[1]


def _probes(tokenizer: Tokenizer) -> list[str]:
    """`_PROBES`, and words of the vocabulary in capitals, with accents and joined."""
    words = [token.strip("▁Ġ#").removesuffix("</w>") for token in tokenizer.tokens]
    words = [word for word in words if word.isalpha()]
    some = words[:: len(words) // 24 + 1]
    accents = (normalize("NFC", f"{word[:1]}\u0301{word[1:]}") for word in some)
    joined = "".join(word for word in words if not word.isascii())[:40]
    return [" ".join(some).upper(), " ".join(accents), joined, *_PROBES]


def run_client(to: str, out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer of a client about an export, from a new process; see `clients.py`."""
    name, packages, _ = CLIENTS[to]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    changes = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    changes["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with temporary(Path(tempfile.mkdtemp(prefix="jaxlm-"))) as scratch:
        file = scratch / "asked"
        file.write_bytes(pickle.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-m", "jaxlm.convert.clients", to, str(out), str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, **changes},
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            last = next((line for line in reversed(lines) if "rror" in line), lines[-1])
            raise UserError(f"{name} cannot use {out}: {last[:500]}")
        answer = pickle.loads(file.read_bytes())
    return {**answer, "version": importlib.metadata.version(packages[-1])}
