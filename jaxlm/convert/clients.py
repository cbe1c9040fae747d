"""Run a program that reads exports, and return its outputs; one process per call.

    python -m jaxlm.convert.clients hf DIR FILE

FILE holds the pickled question, later replaced by the answer: "outputs", an array for
each batch or text; "what", "logits" or "hidden"; "ids", those of texts; "greedy", the
continuations of prompts; "tops", the likeliest tokens at each position of these, (id,
log-probability); "notes", warnings of the program. Nothing else of jaxlm is imported,
so the answers do not depend on the code of the export. Next: `verify.py`.
"""

import itertools
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]
_ADDED = 32  # added tokens whose ids are compared
# The output that is compared: the first of these that a class of transformers has.
_OUTPUTS = ("prediction_logits", "mc_logits", "logits", "start_logits")


def transformers(directory: Path, asked: dict[str, Any]) -> Answer:
    """Answers of transformers: the class asked for, or that of config.json, in float32.

    The weights are first rounded to the dtype asked for. For a class asked for, unused
    tensors are no complaint: the directory may be of another class.
    """
    import torch  # pyrefly: ignore
    import transformers  # pyrefly: ignore

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    other = asked.get("kind")
    kind = getattr(transformers, other or config["architectures"][0])
    model, info = kind.from_pretrained(
        directory,
        dtype=getattr(torch, asked.get("dtype", "float32")),
        output_loading_info=True,
    )
    model.float().eval()
    answer: Answer = {"outputs": []}
    notes = answer["notes"] = [
        f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, names)))}"
        for what, names in info.items()
        if names and not (other and what == "unexpected_keys")
    ]
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            asked.get("tokenizer", directory),
            config=model.config,
            trust_remote_code=False,
        )
        added = sorted(tokenizer.get_added_vocab().items(), key=lambda each: each[1])
        texts = [f"A {token} b{token}{token} c." for token, _ in added[:_ADDED]]
        answer["texts"] = [*asked["texts"], *texts]
        framed = {"add_special_tokens": asked.get("framed", True)}
        answer["ids"] = [tokenizer(t, **framed)["input_ids"] for t in answer["texts"]]
    except Exception as error:  # each class of tokenizers fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        notes.append(f"the tokenizer cannot be loaded, ids are not compared: {reason}")
    with torch.no_grad():
        for batch in asked["batches"]:
            found = model(**{name: torch.tensor(x) for name, x in batch.items()})
            name = next((name for name in _OUTPUTS if name in found), None)
            answer["what"] = "logits" if name else "hidden"
            array = found[name or "last_hidden_state"]
            if name == "start_logits":
                array = torch.stack([array, found.end_logits], -1)
            answer["outputs"].append(array[0].numpy())
        answer["greedy"] = []
        for ids in asked["prompts"]:
            new = {"max_new_tokens": asked["new"], "do_sample": False}
            row = model.generate(torch.tensor([ids]), **new)[0]
            answer["greedy"].append(row[len(ids) :].tolist())
    return answer


def sentence_transformers(directory: Path, asked: dict[str, Any]) -> Answer:
    """Answers of sentence-transformers: the vectors of texts."""
    import sentence_transformers  # pyrefly: ignore

    dtypes = {"dtype": asked.get("dtype", "float32")}
    model = sentence_transformers.SentenceTransformer(
        str(directory), device="cpu", model_kwargs=dtypes
    )
    model.float()
    return {"outputs": [*model.encode(asked["texts"], show_progress_bar=False)]}


def llama(path: Path, asked: dict[str, Any]) -> Answer:
    """Answers of llama.cpp on one thread: greedy texts and log-probs, or vectors."""
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
    if params.embedding:
        found = server.handle_embeddings({"input": asked["texts"]})["data"]
        found.sort(key=lambda each: each["index"])
        return {"outputs": [np.ravel(each["embedding"]) for each in found]}
    options = {"max_tokens": asked["new"], "logprobs": 5, "temperature": 0.0}
    answer: Answer = {"greedy": [], "tops": []}
    for ids in asked["prompts"]:
        question = {"prompt": ids, "ignore_eos": True, **options}
        found = server.handle_completions(question)["choices"][0]["logprobs"]["content"]
        answer["greedy"].append([each["id"] for each in found])
        tops = [each["top_logprobs"] for each in found]
        answer["tops"] += [[(x["id"], x["logprob"]) for x in top] for top in tops]
    return answer


def stablehlo(path: Path, asked: dict[str, Any]) -> Answer:
    """Answers of jax.export, which runs the program without jaxlm's code."""
    import jax
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call)
    answer: Answer = {"outputs": []}
    for batch in asked["batches"]:
        tokens = np.array(batch["input_ids"], np.int32)
        more = (np.zeros_like(tokens), np.ones(tokens.shape, bool))
        found = call(tokens, *more[: len(program.in_avals) - 1])
        answer["what"] = "logits" if "logits" in found else "hidden"
        answer["outputs"].append(np.asarray(found[answer["what"]])[0])
    return answer


def onnxruntime(directory: Path, asked: dict[str, Any]) -> Answer:
    """Answers of onnxruntime on whole rows. A decoder also reads each row in two
    halves, the second half token by token with a past."""
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
        if "token_type_ids" in [each.name for each in model.get_inputs()]:
            fed["token_type_ids"] = np.zeros_like(ids)
        outputs.append(whole.run([output], fed)[0][0])
        if pasts:
            pieces = _by_pieces(model, pasts, ids)
            delta = np.abs(pieces - outputs[-1]).max() / np.abs(outputs[-1]).max()
            worst = max(worst, float(delta))
    notes = [f"with a past it differs by {worst:.1e}"] if worst > 1e-5 else []
    what = "logits" if output == "logits" else "hidden"
    return {"outputs": outputs, "what": what, "notes": notes}


def _by_pieces(model: Any, pasts: Any, ids: np.ndarray) -> np.ndarray:
    """The logits [L, V] of one row that is read in pieces."""
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


_CLIENTS = {
    "hf": transformers,
    "sentence": sentence_transformers,
    "gguf": llama,
    "stablehlo": stablehlo,
    "onnx": onnxruntime,
}

if __name__ == "__main__":
    client, export, file = sys.argv[1:]
    answer = _CLIENTS[client](Path(export), pickle.loads(Path(file).read_bytes()))
    Path(file).write_bytes(pickle.dumps(answer))
