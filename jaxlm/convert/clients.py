"""Programs that read exports, each asked what it computes; one process for each call.

    python -m jaxlm.convert.clients hf DIR FILE

FILE holds the pickled question and then the answer. Nothing of jaxlm is imported, so
that the answers do not depend on the code that wrote the export. Next: `verify.py`
compares them.
"""

import itertools
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

Answer = tuple[dict[str, Any], list[np.ndarray]]
_LOGITS = ("prediction_logits", "mc_logits", "logits")


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
    said: dict[str, Any] = {"version": transformers.__version__, "notes": notes}
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
        said["ids"] = [tokenizer(text)["input_ids"] for text in asked["texts"]]
    except Exception as error:  # each class of tokenizers fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        notes.append(f"the tokenizer cannot be loaded, ids are not compared: {reason}")
    outputs = []
    with torch.no_grad():
        for batch in asked["batches"]:
            found = model(**{name: torch.tensor(x) for name, x in batch.items()})
            name = next((name for name in _LOGITS if hasattr(found, name)), None)
            said["logits"] = name is not None
            if hasattr(found, "start_logits"):
                array = torch.stack([found.start_logits, found.end_logits], -1)
            else:
                array = getattr(found, name) if name else found.last_hidden_state
            outputs.append(array[0].numpy())
        said["greedy"] = [
            model.generate(
                torch.tensor([ids]), max_new_tokens=asked["new"], do_sample=False
            )[0, len(ids) :].tolist()
            for ids in asked["prompts"]
        ]
    return said, outputs


def sentence_transformers(directory: Path, asked: dict[str, Any]) -> Answer:
    """The vectors of texts."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import sentence_transformers  # pyrefly: ignore

    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    vectors = model.encode(asked["texts"], show_progress_bar=False)
    said = {"version": sentence_transformers.__version__, "notes": []}
    return said, [np.asarray(vector) for vector in vectors]


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
    params.embedding = not asked["prompts"]
    server = xllamacpp.Server(params)  # pyrefly: ignore
    said: dict[str, Any] = {"version": xllamacpp.__version__, "notes": []}
    if params.embedding:
        found = server.handle_embeddings({"input": asked["texts"]})["data"]
        found.sort(key=lambda each: each["index"])
        return said, [np.array(each["embedding"]) for each in found]
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
    return said, []


def stablehlo(path: Path, asked: dict[str, Any]) -> Answer:
    """jax.export, without the code that the program was made of."""
    import jax
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call)
    said: dict[str, Any] = {"version": jax.__version__, "notes": []}
    outputs = []
    for batch in asked["batches"]:
        tokens = np.array(batch["input_ids"], np.int32)
        more = (np.zeros_like(tokens), np.ones(tokens.shape, bool))
        found = call(tokens, *more[: len(program.in_avals) - 1])
        said["logits"] = "logits" in found
        outputs.append(np.asarray(found["logits" if said["logits"] else "hidden"])[0])
    return said, outputs


def onnxruntime(directory: Path, asked: dict[str, Any]) -> Answer:
    """Whole rows. A decoder reads each row again in two halves, the second a token at
    a time with a past."""
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
    outputs, worst = [], 0.0
    for batch in asked["batches"]:
        ids = np.array(batch["input_ids"], np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if not pasts:
            fed["token_type_ids"] = np.zeros_like(ids)
        outputs.append(whole.run([output], fed)[0][0])
        if pasts:
            pieces = _by_pieces(model, pasts, ids)
            delta = np.abs(pieces - outputs[-1]).max() / np.abs(outputs[-1]).max()
            worst = max(worst, float(delta))
    notes = [f"with a past it differs by {worst:.1e}"] if worst > 1e-5 else []
    version = ort.__version__
    return {"version": version, "logits": output == "logits", "notes": notes}, outputs


def _by_pieces(model: Any, pasts: Any, ids: np.ndarray) -> np.ndarray:
    """Logits [L, V] of one row, read in pieces."""
    length = ids.shape[1]
    state = {
        each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
        for each in pasts
    }
    logits = []
    for begin, end in itertools.pairwise([0, *range(length // 2, length + 1)]):
        mask = np.ones((1, end), np.int64)
        fed = {"input_ids": ids[:, begin:end], "attention_mask": mask, **state}
        found, *present = model.run(None, fed)
        state = dict(zip(state, present, strict=True))
        logits.append(found[0])
    return np.concatenate(logits)


def main(client: str, export: str, file: str) -> None:
    """Ask one client."""
    asked = pickle.loads(Path(file).read_bytes())
    answer = _CLIENTS[client](Path(export), asked)
    Path(file).write_bytes(pickle.dumps(answer))


_CLIENTS = {
    "hf": transformers,
    "sentence": sentence_transformers,
    "gguf": llama,
    "stablehlo": stablehlo,
    "onnx": onnxruntime,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
