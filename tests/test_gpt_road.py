"""GPT by the command line: from a text file to generated texts."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from roads import Road, digest, mistake

import jaxlm
from jaxlm.cli import main
from jaxlm.config import Phase
from jaxlm.evaluation import evaluate_stream
from jaxlm.text.corpus import open_corpus
from jaxlm.types import UserError

TINY = """
    gpt2_tiny
    --model.vocab_size 400 --model.num_layers 2 --model.num_heads 2 --model.d_model 16
    --model.d_ff 32 --model.max_length 48 --model.dropout 0.1 --data.packed true
    --batch 8 --accumulate 2 --length 32 --log.tensorboard false --log.batches true
    --mesh.data 1 --steps 6 --save_every 2 --eval_every 3 --log.every 2
    --optim.warmup 2
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    return Road(tmp_path_factory.mktemp("gpt"), TINY)


def test_resume_is_bitwise(road, capsys):
    """With dropout, packing and accumulation."""
    assert main(["pretrain", *road("run")]) == 0
    whole = digest(capsys)
    for stop in ("1", "3"):
        assert main(["pretrain", *road("parts", "--stop", stop)]) == 0
    capsys.readouterr()
    assert main(["pretrain", *road("parts")]) == 0
    assert digest(capsys) == whole


def test_figures_stand_beside_their_baselines(road):
    records = road.lines("run")
    last = records[-1]
    assert last["eval_lm_loss"] > last["eval_unigram_loss"] > 0
    assert last["eval_lm_perplexity"] == pytest.approx(math.exp(last["eval_lm_loss"]))


def test_samples_are_reproducible_and_end_before_a_stop(road, capsys):
    def generate(*more: str) -> str:
        words = ["--prompt", "She", "--max-tokens", "12", "--samples", "2"]
        capsys.readouterr()
        assert main(["generate", road.run, *words, *more]) == 0
        return capsys.readouterr().out

    one = generate("--seed", "1")
    assert one == generate("--seed", "1") != generate("--seed", "2")
    assert one.startswith("She") and "\n---\nShe" in one
    record = json.loads(generate("--seed", "1", "--json", "true").splitlines()[0])
    assert one.startswith("She" + record["text"])
    assert len(record["tokens"]) == len(record["log_probabilities"]) == 12
    letter = record["text"][5]
    cut = generate("--seed", "1", "--stop", letter).split("\n---\n")[0]
    assert cut.strip("\n") == ("She" + record["text"].split(letter)[0]).strip("\n")


def test_an_empty_prompt_starts_a_document_and_a_long_one_keeps_its_end(road):
    model = jaxlm.load(road.run)
    end = "<|endoftext|>"
    greedy = {"max_tokens": 5, "temperature": 0.0}
    from_empty, from_end = (model.generate([p], **greedy)[0] for p in ("", end))
    assert from_empty.text == from_end.text
    long = "word " * 100
    ids = model.tokenizer.encode(long).ids[-(48 - 5) :]
    shortened = model.tokenizer.decode(ids)
    assert model.generate([long], **greedy)[0].text == (
        model.generate([shortened], **greedy)[0].text
    )


def test_beams_find_likelier_texts_than_greedy_and_are_ranked(road, capsys):
    capsys.readouterr()
    words = ["--prompt", "She", "--max-tokens", "8", "--json", "true"]
    beams = ["--beams", "4", "--samples", "3", "--length-penalty", "0"]
    assert main(["generate", road.run, *words, *beams]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores = [each["score"] for each in found]
    assert len(found) == 3 and scores == sorted(scores, reverse=True)
    assert main(["generate", road.run, *words, "--temperature", "0"]) == 0
    greedy = json.loads(capsys.readouterr().out)
    assert scores[0] >= sum(greedy["log_probabilities"]) - 1e-4
    assert "samples = 5 of beams = 4" in mistake(
        capsys, "generate", road.run, *words, "--beams", "4", "--samples", "5"
    )


def test_mistakes_are_one_line(road, capsys):
    run = road.run
    assert "jaxlm generate" in mistake(capsys, "fill", run, "a [MASK]")
    assert "top_p = 1.5" in mistake(
        capsys, "generate", run, "--max-tokens", "9", "--top_p", "1.5"
    )
    assert "max_tokens = 48" in mistake(capsys, "generate", run, "--max-tokens", "48")
    assert "stride" in mistake(
        capsys, "evaluate", run, "--text", str(road.novel), "--stride", "33"
    )
    with pytest.raises(UserError, match="ids run from 0 to 400, not in"):
        jaxlm.load(run).forward([[0, 400]])


def test_a_sliding_window_scores_each_token_once_with_context(road):
    """Compared with a plain loop over windows."""
    model, corpus = jaxlm.load(road.run), open_corpus(str(road.here / "corpus"))
    length, stride, windows = 32, 12, 30
    mine = evaluate_stream(
        model.run,
        model.module,
        corpus,
        Phase(until=1, length=length, batch=7, predictions=1),
        model.params,
        split=1,
        stride=stride,
        limit=windows,
    )
    ends = np.append(corpus.documents[1:, 0], corpus.num_tokens)
    inside = corpus.documents[:, 2] == 1
    pieces = [
        corpus.read(np.array([first]), int(end - first))[0][0]
        for first, end in zip(corpus.documents[inside, 0], ends[inside], strict=True)
    ]
    stream = np.concatenate([[corpus.end_of_document], *pieces])
    apply = jax.jit(model.module.apply)
    nats, n = 0.0, windows * stride
    for begin in range(0, n, stride):
        first = max(0, begin + stride - length)
        last = min(begin + stride, n)
        row = np.zeros((1, length), np.int32)
        row[0, : last - first] = stream[first:last]
        # The run is packed: a document does not see the one before it.
        starts = np.flatnonzero(row[0, : last - first] == corpus.end_of_document)
        segment = np.cumsum(np.isin(np.arange(length), starts))
        at = np.arange(length)
        newest = np.maximum.accumulate(np.where(np.isin(at, starts), at, 0))
        logits = apply(
            {"params": model.params},
            jnp.asarray(row),
            position_ids=jnp.asarray(at - newest)[None],
            segments=jnp.asarray(segment)[None],
        ).logits[0]
        log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
        for i in range(begin, last):
            nats -= log_p[i - first, stream[i + 1]]
    assert mine["targets"] == n
    assert mine["lm_loss"] == pytest.approx(nats / n, rel=1e-5)
    ends = np.flatnonzero(stream[1 : n + 1] == corpus.end_of_document)
    parts = np.split(stream[1 : n + 1], ends)
    texts = [model.tokenizer.decode(p[p != corpus.end_of_document]) for p in parts]
    size = sum(len(text.encode()) for text in texts)
    assert mine["bytes"] == size
    assert mine["words"] == sum(len(text.split()) for text in texts)
    assert mine["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
