"""A fine-tuned model goes out, and transformers says what it says."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath
from exported import CONFIGS, random_params, tokenizer_of

from jaxlm.config import FinetuneConfig, TaskConfig, TextConfig, bert
from jaxlm.convert.task_head import export_task
from jaxlm.convert.verify import verify_task
from jaxlm.tasks.finetune import module_of, task_of
from jaxlm.tasks.finetuned import Finetuned, sample
from jaxlm.tasks.model import TaskModel
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params
from jaxlm.types import UserError

TOKENS = np.array([[2, 7, 8, 3, 9, 10, 3, 0], [2, 11, 3, 0, 0, 0, 0, 0]], np.int32)
TYPES = np.array([[0, 0, 0, 0, 1, 1, 1, 0], [0] * 8], np.int32)
LABELS = {
    "class": ("no", "yes", "maybe"),
    "number": (),
    "tokens": ("O", "B-A", "I-A"),
    "spans": (),
}
METRIC = {"class": "mcc", "number": "pearson", "tokens": "accuracy", "spans": "f1"}


def fitted(kind, pooling):
    row = kind in ("class", "number")
    config = bert(
        "tiny", vocab_size=60, d_model=16, num_heads=2, d_ff=32, max_length=16, nsp=row
    )
    outputs = {"class": 3, "number": 1, "tokens": 3, "spans": 2}[kind]
    task = TaskConfig(
        kind=kind, labels=LABELS[kind], metric=METRIC[kind], pooling=pooling
    )
    module = TaskModel(config, task, outputs, pooling if row else "none")
    # Not so near to 0 as they start.
    params = jax.tree.map(lambda x: x * 4, init_params(module, 3))
    return config, task, module, params


AUTO = {"tokens": "TokenClassification", "spans": "QuestionAnswering"}
AUTO |= {"choice": "MultipleChoice"}


def loaded(directory, kind):
    """transformers' model of a task, which has all of the files' tensors."""
    import transformers

    auto = f"AutoModelFor{AUTO.get(kind, 'SequenceClassification')}"
    model, report = getattr(transformers, auto).from_pretrained(
        directory, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model.eval()


def difference(theirs, kind, module, params, rows):
    """(largest difference of the logits of rows of (ids, types, mask), largest one)."""
    import torch

    names = ("input_ids", "token_type_ids", "attention_mask")
    fed = dict(zip(names, map(torch.tensor, rows), strict=True))
    fed = {name: each.long() for name, each in fed.items()}
    if theirs.config.model_type == "modernbert":
        del fed["token_type_ids"]
    with torch.no_grad():
        out = theirs(**fed)
    if kind == "spans":
        want = torch.stack([out.start_logits, out.end_logits], dim=-1).numpy()
    else:
        want = out.logits.numpy()
    ours = np.asarray(module.apply({"params": params}, *map(jax.numpy.asarray, rows)))
    if ours.ndim == 3:
        ours, want = ours[rows[-1]], want[rows[-1]]
    assert ours.shape == want.shape
    return np.abs(ours - want).max(), np.abs(want).max()


@pytest.mark.oracle
@pytest.mark.parametrize("kind", LABELS)
def test_transformers_has_the_same_logits_and_labels(kind, tmp_path):
    config, task, module, params = fitted(kind, "pooler")
    tokenizer = train_tokenizer(["a film is dull"] * 9, TextConfig(), 60)
    export_task(tmp_path / "m", config, task, params, tokenizer, origin={})
    theirs = loaded(tmp_path / "m", kind)
    rows = (TOKENS, TYPES, TOKENS != 0)
    assert difference(theirs, kind, module, params, rows)[0] < 2e-5
    if LABELS[kind]:
        assert tuple(theirs.config.id2label.values()) == LABELS[kind]


PASSAGES = ["the film is dull, and long", "it was.", "out of the house.", "so it goes"]


def runs(kind, tmp_path):
    """(a fitted model with an encoder of random weights, its export)."""
    row = kind in ("class", "number", "choice")
    config = dataclasses.replace(CONFIGS["bert"], nsp=row)
    tokenizer = tokenizer_of(config)
    task = TaskConfig(
        kind=kind,
        labels=LABELS.get(kind, ("0", "1", "2")),
        metric=METRIC.get(kind, "accuracy"),
        choices=("endings",) if kind == "choice" else (),
    )
    run = FinetuneConfig(model=config, task=task, length=config.max_length)
    module = module_of(run, task_of(run, tokenizer))
    head = jax.tree.map(lambda x: x * 9, init_params(module, 3)["task"])
    kept = {k: v for k, v in random_params(config).items() if k not in ("mlm", "nsp")}
    params = {**kept, "task": head}
    each = Finetuned(epath.Path(tmp_path), task_of(run, tokenizer), module, params, 1)
    out = tmp_path / "m"
    export_task(out, config, task, each.params, tokenizer, origin={})
    return each, out


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["tokens", "spans", "choice"])
def test_verify_finds_parity_and_finds_where_there_is_none(kind, tmp_path):
    each, out = runs(kind, tmp_path)
    batches, scores = sample(each, PASSAGES)
    assert len(batches) == len(scores) == len(PASSAGES)
    two = kind in ("spans", "choice")
    types = [np.array(batch["token_type_ids"]).max() for batch in batches]
    assert types == [int(two)] * len(types)
    report = verify_task(batches, scores, out)
    assert report.passed and "parity" in report.lines[-1], report.lines
    if kind == "tokens":
        scores[1] = scores[1] + 1e-3 * max(np.abs(x).max() for x in scores)
        assert not verify_task(batches, scores, out).passed


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name, kind, pooling",
    [
        ("modernbert", "class", "mean"),
        ("modernbert", "number", "cls"),
        ("modernbert", "tokens", "cls"),
        ("modernbert", "spans", "cls"),
        ("modernbert", "choice", "cls"),
        ("roformer", "tokens", "cls"),
        ("roformer", "spans", "cls"),
    ],
)
def test_heads_of_rope_encoders(name, kind, pooling, tmp_path):
    """A ModernBERT's classes read the dense layer and norm of its MLM head."""
    config, tokenizer = CONFIGS[name], tokenizer_of(CONFIGS[name])
    task = TaskConfig(
        kind=kind,
        labels=LABELS.get(kind, ()),
        metric=METRIC.get(kind, "accuracy"),
        pooling=pooling,
        choices=("endings",) if kind == "choice" else (),
    )
    run = FinetuneConfig(model=config, task=task, length=config.max_length)
    module = module_of(run, task_of(run, tokenizer))
    params = jax.tree.map(lambda x: x * 4, init_params(module, 3))
    assert ("mlm" in params) == (name == "modernbert")
    export_task(tmp_path / "m", config, task, params, tokenizer, origin={})
    rows = (TOKENS, TYPES, TOKENS != 0)
    rows = tuple(each[None] for each in rows) if kind == "choice" else rows
    theirs = loaded(tmp_path / "m", kind)
    worst, largest = difference(theirs, kind, module, params, rows)
    assert worst < 1e-5 * largest


@pytest.mark.parametrize(
    "name, pooling, message",
    [
        ("modernbert", "max", "is read by cls or mean: fine-tune with"),
        ("roformer", "cls", "RoFormer has another head for it"),
    ],
)
def test_what_classes_of_rope_encoders_do_not_have_is_said(
    name, pooling, message, tmp_path
):
    task = TaskConfig(labels=("a", "b"), pooling=pooling)
    config, tokenizer = CONFIGS[name], tokenizer_of(CONFIGS[name])
    with pytest.raises(UserError, match=message):
        export_task(tmp_path / "m", config, task, {}, tokenizer, origin={})


def test_what_transformers_does_not_have_is_said(tmp_path):
    config, task, _, params = fitted("class", "mean")
    tokenizer = train_tokenizer(["a film is dull"] * 9, TextConfig(), 60)
    with pytest.raises(UserError, match="pooling = mean: in transformers"):
        export_task(tmp_path / "m", config, task, params, tokenizer, origin={})


def reads(tokenizer, *texts):
    """Rows of a GPT's task, put together by hand."""
    first = tokenizer.vocab_size
    a, *b = (tokenizer.encode(text).ids.tolist() for text in texts)
    return [first, *a, *([first + 1, *b[0]] if b else []), first + 2]


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["gpt1", "gpt2"])
@pytest.mark.parametrize("kind", ["class", "number"])
def test_a_gpt_s_class_is_read_off_its_last_token(name, kind, tmp_path):
    import torch
    import transformers

    tokenizer = tokenizer_of(CONFIGS[name])
    size = tokenizer.vocab_size + 3
    config = dataclasses.replace(CONFIGS[name], vocab_size=size)
    task = TaskConfig(
        kind=kind, labels=LABELS[kind], metric=METRIC[kind], pooling="last"
    )
    module = TaskModel(config, task, 3 if kind == "class" else 1, "last")
    head = jax.tree.map(lambda x: x * 9, init_params(module, 3)["task"])
    params = {**random_params(config), "task": head}
    export_task(tmp_path / "m", config, task, params, tokenizer, origin={})
    model = loaded(tmp_path / "m", kind)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    texts = ["it was.", "out of the house."]
    rows = [reads(tokenizer, each) for each in texts]
    assert theirs(texts)["input_ids"] == rows
    pair = theirs(*texts)["input_ids"]
    assert pair == reads(tokenizer, *texts)
    rows.append(pair)
    length = max(map(len, rows))
    mask = np.arange(length)[None] < np.array([[len(row)] for row in rows])
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(rows)
    said = jax.jit(module.apply)(
        {"params": params}, *map(jax.numpy.asarray, (tokens, tokens, mask))
    )
    padded = theirs.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        want = model(**padded).logits.numpy()
    assert np.abs(np.asarray(said) - want).max() < 2e-5 * np.abs(want).max()
    if kind == "class":
        told = transformers.pipeline("text-classification", str(tmp_path / "m"))
        best = LABELS[kind][int(want[0].argmax())]
        assert told(texts[0])[0]["label"] == best


def test_a_gpt_that_is_read_otherwise_has_no_class(tmp_path):
    tokenizer = tokenizer_of(CONFIGS["gpt2"])
    config = CONFIGS["gpt2"]
    for task, said in (
        (TaskConfig(pooling="mean"), "pooling = mean: in transformers"),
        (
            TaskConfig(pooling="last", pair="b", both_orders=True),
            "two texts in one order",
        ),
    ):
        with pytest.raises(UserError, match=said):
            export_task(tmp_path / "m", config, task, {}, tokenizer, origin={})
