"""Vectors of words that do not see the context: what senses are compared with.

    1-of-N            each word has its own axis
    word class        a cluster of words that occur beside the same words
    word embedding    PPMI of co-occurrence counts, then singular values (Levy 2015)

All uses of a word form have one vector, so none of them can tell its senses apart.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.config.checks import optional
from jaxlm.probe.senses import Use

_WINDOW = 5  # words on each side
_WORDS = 5000  # the most frequent ones, and the ones that are asked for
_WIDTH, _CLASSES = 100, 100


def static_vectors(train: Sequence[Use], seed: int = 0) -> dict[str, np.ndarray]:
    """The vectors of each use's word form, learnt from the texts of `train`."""
    texts = [each.text.lower().split() for each in train]
    asked = [each.word.lower() for each in train]
    counts = Counter(word for text in texts for word in text)
    words = list(dict.fromkeys([*asked, *(w for w, _ in counts.most_common(_WORDS))]))
    place = {word: i for i, word in enumerate(words)}
    ppmi = _ppmi(_counts(texts, place))
    linalg = optional("scipy.sparse.linalg", "word embeddings", "scipy")
    width = min(_WIDTH, len(words) - 1)
    start = np.random.default_rng(seed).normal(size=len(words))
    left, scale, _ = linalg.svds(ppmi, k=width, v0=start)
    embedding = left * np.sqrt(np.maximum(scale, 0))
    cluster = optional("sklearn.cluster", "word classes", "scikit-learn")
    means = cluster.KMeans(min(_CLASSES, len(words)), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of words with equal contexts: fewer classes
        classes = means.fit_predict(embedding)
    found = np.array([place[word] for word in asked])
    return {
        "1-of-N": np.eye(len(set(asked)))[np.unique(found, return_inverse=True)[1]],
        "word class": np.eye(int(classes.max()) + 1)[classes[found]],
        "word embedding (PPMI, SVD)": embedding[found],
    }


def by_word(vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Each use's vector replaced by the mean over the uses of its word form."""
    _, place, counts = np.unique(words, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, place, vectors)
    return (sums / counts[:, None])[place]


def _counts(texts: Sequence[Sequence[str]], place: dict[str, int]) -> Any:
    """How often each word occurs within the window of each other one."""
    sparse = optional("scipy.sparse", "counts of words", "scipy")
    apart = [""] * _WINDOW  # no window reaches into the next text
    ids = np.array([place.get(w, -1) for text in texts for w in [*text, *apart]])
    pairs = [np.stack([ids[:-n], ids[n:]]) for n in range(1, _WINDOW + 1)]
    both = np.concatenate(pairs, axis=1)
    both = both[:, (both >= 0).all(0)]
    ones, shape = np.ones(both.shape[1]), (len(place), len(place))
    counts = sparse.coo_matrix((ones, (both[0], both[1])), shape).tocsr()
    return (counts + counts.T).tocoo()


def _ppmi(counts: Any) -> Any:
    """max(0, log P(a, b) / P(a) P(b)) of each pair that occurs."""
    sums, total = np.asarray(counts.sum(1)).ravel(), counts.sum()
    expected = sums[counts.row] * sums[counts.col] / total
    counts.data = np.maximum(0, np.log(counts.data / expected))
    return counts.tocsr()
