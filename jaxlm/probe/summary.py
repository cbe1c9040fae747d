"""Probes' scores → what a layer adds, where a task lies, and beside it baselines."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.config.checks import optional
from jaxlm.families import family_of
from jaxlm.probe import Label
from jaxlm.probe.edge import Probes, Schedule, mix_of, scorer, train
from jaxlm.probe.edges import Cells, Example, cells
from jaxlm.probe.features import Reader, States, hidden_states, text_of_words
from jaxlm.probe.pictures import Figures
from jaxlm.types import note


class Data(NamedTuple):
    """The examples of training and dev, and their labels."""

    train: Sequence[Example]
    dev: Sequence[Example]
    names: Sequence[str]  # labels, the most frequent of training first
    shares: np.ndarray  # [Y], of training
    scored: np.ndarray  # bool [Y]: labels whose cells count


class Setting(NamedTuple):
    """How probes are made."""

    seeds: int
    schedule: Schedule
    cache: Path
    tell: Callable[[str], None] = lambda _: None


class Curve(NamedTuple):
    """Scores by layer 0 … N of each seed, and summaries of each seed."""

    f1: np.ndarray  # [M, seeds]
    control: np.ndarray  # [M, seeds], of the control task; 0: not trained
    right: np.ndarray  # bool [M, seeds, targets]
    mix: np.ndarray  # [seeds, M]: weights of the probe of all layers
    majority: float  # F1 of the most frequent label for every target


def labelled(train: Sequence[Example], dev: Sequence[Example], label: Label) -> Data:
    """Training and dev with the labels of both; a note names those only dev has.

    For semantic roles, labels of references and continuations (R-, C-) do not count;
    for coreference, only the label 1 does.
    """
    counts, every = (
        Counter(n for each in split for target in each.targets for n in target.labels)
        for split in (train, dev)
    )
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if new := sorted(every.keys() - counts.keys()):
        note(f"labels of dev that training lacks, always missed: {', '.join(new)}")
    names += new
    shares = np.array([float(counts[name]) for name in names])
    if label == "srl":
        scored = [not name.startswith(("R-", "C-")) for name in names]
    else:
        scored = [label != "coref" or name == "1" for name in names]
    return Data(train, dev, names, shares, np.array(scored))


def majority(data: Data, found: Cells) -> float:
    """Micro F1 of the most frequent label for every target."""
    labels = found.labels[0][:, data.scored]
    best = data.shares[data.scored].argmax()
    return float(2 * labels[:, best].sum() / max(1, len(labels) + labels.sum()))


def curve(reader: Reader, data: Data, how: Setting, *, control: bool = True) -> Curve:
    """The scores of all layers' cumulative probes."""
    dropped = Counter[str]()
    train_set, dev_set = (
        features(reader, split, data, how, dropped) for split in (data.train, data.dev)
    )
    for why, count in dropped.items():
        note(f"dropped {count:,} {why}")
    layers = reader.config.num_layers + 1
    probes = Probes.grid(layers, how.seeds, control)
    score = scorer(probes, *dev_set, data.scored)
    params = train(probes, *train_set, score, how.schedule, how.tell)
    found = score(params)
    shape = layers, how.seeds, 1 + control
    f1, right = found.f1.reshape(shape), found.right.reshape(*shape, -1)[:, :, 0]
    mixes = np.asarray(jax.vmap(mix_of)(params, np.asarray(probes.last)))
    mix = mixes.reshape(*shape, layers)[-1, :, 0]
    level = majority(data, dev_set[1])
    return Curve(f1[..., 0], f1[..., 1:].sum(-1), right, mix, level)


def features(
    reader: Reader,
    examples: Sequence[Example],
    data: Data,
    how: Setting,
    dropped: Counter[str],
) -> tuple[States, Cells]:
    """The states and the cells of a split; what is dropped is counted."""
    most = family_of(reader.config).window(reader.config)
    texts = [text_of_words(reader, each.words) for each in examples]
    kept = [i for i, (text, _) in enumerate(texts) if len(text.tokens) <= most]
    if len(kept) < len(texts):
        dropped[f"sentences of more than {most:,} tokens"] += len(texts) - len(kept)
    texts = [texts[i] for i in kept]
    read = [examples[i] for i in kept]
    found = cells(read, texts, data.names, data.shares, dropped)
    states = [text for text, _ in texts]
    return hidden_states(reader, states, how.cache, how.tell), found


class Place(NamedTuple):
    """Where in the network a task lies (Tenney et al., ACL 2019), by seed."""

    gravity: np.ndarray  # centre of the mix of all layers
    expected: np.ndarray  # layer, weighted by what each layer adds to F1
    focus: np.ndarray  # KL divergence of the mix from the uniform one, in nats


# Where all layers together add less F1, the share of each is noise.
_LEAST = 0.01
_PLACE = ("centre of gravity", "expected layer", "focus of the mix (KL, nats)")


def place(found: Curve) -> Place:
    """The summaries of a curve."""
    layers = np.arange(len(found.f1))
    adds = np.diff(found.f1, axis=0)  # negative ones are kept
    total = adds.sum(0)
    total[total < _LEAST] = np.nan
    expected = (layers[1:, None] * adds).sum(0) / total
    mix = np.maximum(found.mix, 1e-30)
    return Place(found.mix @ layers, expected, (mix * np.log(mix * len(layers))).sum(1))


def paired(found: Curve) -> list[float]:
    """p of each layer from 1 on: McNemar's exact test of it and the layer below, over
    the targets that most seeds have right."""
    stats = optional("scipy.stats", "paired tests", "scipy")
    right = found.right.mean(1) > 0.5
    gained = (right[1:] & ~right[:-1]).sum(1).tolist()
    lost = (right[:-1] & ~right[1:]).sum(1).tolist()
    pairs = zip(gained, lost, strict=True)
    return [float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0 for a, b in pairs]


def spread(values: Any) -> tuple[Any, Any]:
    """(mean, standard deviation) over seeds; of one seed the deviation is 0."""
    values = np.asarray(values, np.float64)
    return values.mean(-1), values.std(-1, ddof=int(values.shape[-1] > 1))


def tables(found: Curve, names: Sequence[str], twin: Curve | None) -> list[Figures]:
    """The figures of a curve, beside those of a random `twin` with a control task."""

    def columns(name: str, values: Any) -> dict[str, Any]:
        return dict(zip((name, f"{name} ±"), spread(values), strict=True))

    scores, f1 = columns("F1", found.f1), spread(found.f1)[0]
    where = columns("mean", np.stack(place(found)))
    weights, drawn = columns("weight", found.mix.T), ["F1"]
    if twin:
        scores["gain"] = np.diff(f1, prepend=np.nan)
        scores["p"] = [np.nan, *paired(found)]
        scores["control F1"] = spread(found.control)[0]
        scores["selectivity"] = f1 - scores["control F1"]
        scores |= columns("random F1", twin.f1)
        where |= columns("random", np.stack(place(twin)))
        weights |= columns("random", twin.mix.T)
        drawn += ["control F1", "random F1"]
    mixes = [f"0 … {i}" for i in range(len(names))]
    levels = {"majority class": found.majority}
    return [
        Figures("Micro F1", "layers", mixes, scores, drawn, levels),
        Figures("Where the task lies", "", _PLACE, where, []),
        Figures("Layer weights", "layer", names, weights, ["weight", "random"]),
    ]
