"""Scoring of texts against transformers on an export of the same model.

    python -m tools.bench.score RUN --pairs blimp/            # GPT: log-probabilities
    python -m tools.bench.score RUN --pairs blimp/            # BERT: PLL, masked copies

Both read the sentences of 1,000 minimal pairs from strings to numbers, fp32, in batches
of equal size that are sorted by length; theirs are padded to the longest of a batch.
Sums must be equal before anything is timed. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

from jaxlm.memory import keep_freed_memory  # noqa: E402

keep_freed_memory()

import numpy as np  # noqa: E402

import jaxlm  # noqa: E402
from jaxlm import scoring  # noqa: E402
from jaxlm.zeroshot.pairs import first, read  # noqa: E402
from tools.bench.step import spread  # noqa: E402


def theirs(directory: Path, causal: bool, at_once: int) -> Any:
    """A function that scores texts by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    torch.set_num_threads(THREADS)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model: Any = kind.from_pretrained(directory).eval()

    def rows_of(texts: list[str]) -> list[tuple[int, list[int], list[int], list[int]]]:
        """(text, row, places, targets) of each row."""
        found = []
        for i, ids in enumerate(tokenizer(texts, add_special_tokens=False).input_ids):
            if causal:
                row = [tokenizer.bos_token_id, *ids]
                found.append((i, row[:-1], list(range(len(ids))), ids))
                continue
            for at, id in enumerate(ids):
                masked = [*ids[:at], tokenizer.mask_token_id, *ids[at + 1 :]]
                row = [tokenizer.cls_token_id, *masked, tokenizer.sep_token_id]
                found.append((i, row, [at + 1], [id]))
        return found

    def score(texts: list[str]) -> np.ndarray:
        rows = sorted(rows_of(texts), key=lambda each: len(each[1]))
        sums = np.zeros(len(texts))
        start = 0
        while start < len(rows):
            length = len(rows[min(start + 255, len(rows) - 1)][1])
            some = rows[start : start + max(1, at_once // length)]
            start += len(some)
            longest = max(len(each[1]) for each in some)
            tokens = torch.zeros(len(some), longest, dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for k, (_, row, _, _) in enumerate(some):
                tokens[k, : len(row)] = torch.tensor(row)
                mask[k, : len(row)] = 1
            with torch.inference_mode():
                log_p = model(tokens, attention_mask=mask).logits.log_softmax(-1)
            for k, (i, _, places, targets) in enumerate(some):
                sums[i] += float(log_p[k, places, targets].sum())
        return sums

    return score


def main() -> None:
    """Compare, then time, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = jaxlm.load(args.directory)
    causal = not model.family.bidirectional
    items = first(read([args.pairs]), -(-args.count // 67))[: args.count]
    texts = [text for each in items for text in (each.good, each.bad)]

    def ours(texts: list[str]) -> np.ndarray:
        found: Any = model.score(texts)
        return np.array([each.total for each in found])

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        model.save(out)
        other = theirs(out, causal, 1 << 12)
        mine, want = ours(texts), other(texts)
        print(f"{len(texts):,} texts, sums differ by {np.abs(mine - want).max():.1e}")
        assert np.abs(mine - want).max() < 1e-3
        before = scoring._log_p._cache_size()
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(args.rounds):
            for name, score in (("ours", ours), ("theirs", other)):
                start = time.perf_counter()
                score(texts)
                seconds[name].append(time.perf_counter() - start)
    compiled = scoring._log_p._cache_size() - before
    for name, each in seconds.items():
        print(f"{name:<7} {spread(each, '.2f')} s")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"theirs / ours {spread(ratios, '.2f')}")
    print(f"{before} programs, then {compiled} more")


if __name__ == "__main__":
    main()
