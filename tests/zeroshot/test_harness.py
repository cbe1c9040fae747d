"""lm-evaluation-harness: its own `hf` model on an export, and ours, say the same."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from exported import export

import jaxlm

pytestmark = [
    pytest.mark.zeroshot,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("without_type_checks"),
]
WORDS = ["it", "was", "a", "truth", "that", "nobody", "she", "out", "of", "the"]
LAMBADA = """\
task: local_lambada
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list: [{{metric: perplexity, aggregation: perplexity}}, {{metric: acc}}]
"""
BLIMP = """\
task: local_blimp
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(the harness's model of an export, ours)."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.models.huggingface import HFLM

    from jaxlm.zeroshot.harness import adapter

    out = tmp_path_factory.mktemp("model") / "gpt2"
    export(out, "gpt2")
    model = jaxlm.load(out)
    # We never draw what pads a vocabulary; theirs has to be told.
    path, padding = out / "generation_config.json", range(model.tokenizer.drawn, 300)
    config = json.loads(path.read_text()) | {"suppress_tokens": [*padding]}
    path.write_text(json.dumps(config))
    theirs = HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=4)
    return theirs, adapter(model)


def asked(*args):
    return [SimpleNamespace(args=each, task_name="") for each in args]


def sentences(count: int, length: int, seed: int) -> list[str]:
    draw = np.random.RandomState(seed)
    return [" ".join(draw.choice(WORDS, length)) for _ in range(count)]


def test_log_likelihoods_equal_the_harness(both):
    one, two = sentences(6, 5, 0), sentences(6, 2, 1)
    pairs = [(a, f" {b}") for a, b in zip(one, two, strict=True)]
    pairs += [("", one[0]), ("it was ", "out"), (" ".join(one * 2), " house")]
    theirs, ours = (each.loglikelihood(asked(*pairs)) for each in both)
    for (a, b), (c, d) in zip(theirs, ours, strict=True):
        assert c == pytest.approx(a, abs=1e-4) and b == d
    long = [
        (" ".join(sentences(1, size, size)[0] for _ in (0, 1)),) for size in (3, 40)
    ]
    theirs, ours = (each.loglikelihood_rolling(asked(*long)) for each in both)
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)  # of 150 tokens


def test_answers_and_accuracies_equal_the_harness(both, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    until = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    prompts = [(text, until) for text in sentences(5, 4, 2)]
    theirs, ours = (each.generate_until(asked(*prompts)) for each in both)
    assert theirs == ours
    # Some last words are those that the model says itself, the others are not.
    texts = [f"{p}{a}".rstrip() for (p, _), a in zip(prompts, ours, strict=True)]
    texts = [text for text in texts if " " in text] + sentences(4, 6, 3)
    records = {"local_lambada": [{"text": text} for text in texts]}
    good, bad = sentences(12, 6, 4), sentences(12, 6, 5)
    records["local_blimp"] = [
        {"sentence_good": a, "sentence_bad": b} for a, b in zip(good, bad, strict=True)
    ]
    for name, template in (("local_lambada", LAMBADA), ("local_blimp", BLIMP)):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(f"{json.dumps(each)}\n" for each in records[name]))
        (tmp_path / f"{name}.yaml").write_text(template.format(path=data))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs, ours = (
        lm_eval.simple_evaluate(
            each, tasks=list(records), task_manager=manager, bootstrap_iters=0
        )["results"]
        for each in both
    )
    for task, figure in (("local_blimp", "acc"), ("local_lambada", "acc")):
        assert ours[task][f"{figure},none"] == theirs[task][f"{figure},none"]
    assert 0 < ours["local_blimp"]["acc,none"] < 1
    found = ours["local_lambada"]["perplexity,none"]
    assert found == pytest.approx(theirs["local_lambada"]["perplexity,none"], rel=1e-4)
