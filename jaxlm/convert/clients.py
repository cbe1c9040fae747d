"""Programs that read exports, asked what they make of one; a process for each call.

    python -m jaxlm.convert.clients hf DIR asked.json said

Writes said.json and said.npz. Imports nothing of jaxlm: what comes out here owes
nothing to what wrote the files.
"""

from __future__ import annotations

import itertools
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
        for i, batch in enumerate(asked.get("batches", ())):
            found = model(**{name: torch.tensor(x) for name, x in batch.items()})
            arrays[f"outputs_{i}"] = _answers(found, torch)[0].numpy()
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


def _answers(found: Any, torch: Any) -> Any:
    """What a task's class says: of a span the logits of both its ends."""
    if hasattr(found, "start_logits"):
        return torch.stack([found.start_logits, found.end_logits], -1)
    return found.mc_logits if hasattr(found, "mc_logits") else found.logits


def sentence_transformers(directory: Path, asked: dict[str, Any]) -> Answer:
    """The vectors of texts."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import sentence_transformers  # pyrefly: ignore

    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    vectors = model.encode(asked["texts"], show_progress_bar=False)
    said = {"version": sentence_transformers.__version__, "notes": []}
    return said, {f"vectors_{i}": np.asarray(each) for i, each in enumerate(vectors)}


def llama(path: Path, asked: dict[str, Any]) -> Answer:
    """llama.cpp, on one thread: greedy texts with log-probabilities, or vectors."""
    import xllamacpp  # pyrefly: ignore

    params = xllamacpp.CommonParams()  # pyrefly: ignore
    params.model.path = str(path)
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.n_parallel = 1
    params.n_ctx = params.n_batch = params.n_ubatch = asked["context"]
    params.embedding = not asked["new"]
    server = xllamacpp.Server(params)  # pyrefly: ignore
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
                "max_tokens": asked["new"],
                "logprobs": 5,
                "temperature": 0.0,
                "ignore_eos": True,
            }
        )
        said["scores"].append(
            [
                [each["id"], [[t["id"], t["logprob"]] for t in each["top_logprobs"]]]
                for each in found["choices"][0]["logprobs"]["content"]
            ]
        )
    return said, {"none": np.zeros(1)}


def stablehlo(path: Path, asked: dict[str, Any]) -> Answer:
    """jax.export, without the code that the program was made of."""
    import jax
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call)
    arrays, has_logits = {}, False
    for i, row in enumerate(asked["rows"]):
        tokens = np.array([row], np.int32)
        more = (np.zeros_like(tokens), np.ones(tokens.shape, bool))
        out = call(tokens, *more[: len(program.in_avals) - 1])
        has_logits = "logits" in out
        arrays[f"outputs_{i}"] = np.asarray(out["logits" if has_logits else "hidden"])[
            0
        ]
    said = {"version": jax.__version__, "notes": [], "logits": has_logits}
    return said, arrays


def onnxruntime(directory: Path, asked: dict[str, Any]) -> Answer:
    """Whole rows; a decoder's again in two halves, the second a token at a time."""
    import onnxruntime as ort  # pyrefly: ignore

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def session(name: str) -> Any:
        path = str(directory / "onnx" / f"{name}.onnx")
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    model = session("model")
    pasts = [i for i in model.get_inputs() if i.name.startswith("past_key_values")]
    whole = session("decoder_model") if pasts else model
    output = whole.get_outputs()[0].name
    arrays, worst = {}, 0.0
    for i, row in enumerate(asked["rows"]):
        ids = np.array([row], np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if not pasts:
            fed["token_type_ids"] = np.zeros_like(ids)
        arrays[f"outputs_{i}"] = whole.run([output], fed)[0][0]
        if pasts:
            cuts = [0, *range(len(row) // 2, len(row) + 1)]
            state = {
                each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
                for each in pasts
            }
            parts = []
            for begin, end in itertools.pairwise(cuts):
                fed = {"input_ids": ids[:, begin:end], **state}
                fed["attention_mask"] = np.ones((1, end), np.int64)
                logits, *state_ = model.run(None, fed)
                names = [each.name for each in model.get_outputs()[1:]]
                state = {
                    name.replace("present", "past_key_values"): array
                    for name, array in zip(names, state_, strict=True)
                }
                parts.append(logits[0])
            delta = np.abs(np.concatenate(parts) - arrays[f"outputs_{i}"]).max()
            worst = max(worst, float(delta / np.abs(arrays[f"outputs_{i}"]).max()))
    said = {"version": ort.__version__, "logits": output == "logits"}
    notes = [f"with a past it differs by {worst:.1e}"] if worst > 1e-5 else []
    return {**said, "notes": notes}, arrays


def main(client: str, directory: str, question: str, answer: str) -> None:
    """Ask one client."""
    asked = json.loads(Path(question).read_text())
    said, arrays = _CLIENTS[client](Path(directory), asked)
    np.savez(Path(answer).with_suffix(".npz"), **arrays)  # pyrefly: ignore
    Path(answer).with_suffix(".json").write_text(json.dumps(said))


_CLIENTS = {
    "hf": transformers,
    "sentence": sentence_transformers,
    "gguf": llama,
    "stablehlo": stablehlo,
    "onnx": onnxruntime,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
