"""Programs that read exports, asked what they make of one; a process for each call.

    python -m jaxlm.convert.clients hf DIR asked.json said

Writes said.json and said.npz. Imports neither jax nor the rest of jaxlm: what comes out
here owes nothing to what wrote the files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

Answer = tuple[dict[str, Any], dict[str, np.ndarray]]


def transformers(directory: Path, asked: dict[str, Any]) -> Answer:
    """The class that config.json names, in float32 on the CPU."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch  # pyrefly: ignore
    import transformers  # pyrefly: ignore

    config = json.loads((directory / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    notes = [
        f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, names)))}"
        for what, names in info.items()
        if names
    ]
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
        ids = [tokenizer(text)["input_ids"] for text in asked["texts"]]
    except (ValueError, OSError):
        ids = None
    arrays, has_logits = {}, False
    with torch.no_grad():
        for i, row in enumerate(asked["rows"]):
            out = model(torch.tensor([row]))
            names = ("prediction_logits", "logits")
            logits = next((getattr(out, n) for n in names if hasattr(out, n)), None)
            has_logits = logits is not None
            array = logits if has_logits else out.last_hidden_state
            arrays[f"outputs_{i}"] = array[0].numpy()
        greedy = [
            model.generate(
                torch.tensor([ids_]), max_new_tokens=asked["new"], do_sample=False
            )[0, len(ids_) :].tolist()
            for ids_ in (asked["prompts"] if asked["new"] else [])
        ]
    said = {
        "version": transformers.__version__,
        "notes": notes,
        "ids": ids,
        "logits": has_logits,
        "greedy": greedy,
    }
    return said, arrays


def llama(path: Path, asked: dict[str, Any]) -> Answer:
    """llama.cpp, on one thread: greedy texts with log-probabilities, or vectors."""
    import xllamacpp  # pyrefly: ignore

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.n_parallel = 1
    params.n_ctx = params.n_batch = params.n_ubatch = asked["context"]
    params.embedding = not asked["new"]
    server = xllamacpp.Server(params)
    said: dict[str, Any] = {"version": xllamacpp.__version__, "notes": []}
    if not asked["new"]:
        found = server.handle_embeddings({"input": asked["texts"]})
        rows = {
            f"vectors_{d['index']}": np.array(d["embedding"]) for d in found["data"]
        }
        return said, rows
    said["scores"] = []
    for ids in asked["prompts"]:
        found = server.handle_completions(
            {
                "prompt": ids,
                "n_predict": asked["new"],
                "n_probs": 5,
                "temperature": 0.0,
                "ignore_eos": True,
            }
        )
        said["scores"].append(
            [
                [each["id"], [[t["id"], t["logprob"]] for t in each["top_logprobs"]]]
                for each in found["completion_probabilities"]
            ]
        )
    return said, {"none": np.zeros(1)}


def main(client: str, directory: str, question: str, answer: str) -> None:
    """Ask one client."""
    asked = json.loads(Path(question).read_text())
    said, arrays = {"hf": transformers, "gguf": llama}[client](Path(directory), asked)
    np.savez(Path(answer).with_suffix(".npz"), **arrays)  # pyrefly: ignore
    Path(answer).with_suffix(".json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
