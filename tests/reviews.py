"""A task that a small model learns in seconds: which kind of word a text has."""

import random

GOOD = ["charming", "warm", "witty", "bright", "lovely", "fresh"]
BAD = ["dull", "bleak", "stale", "clumsy", "tired", "sour"]
REST = ["the", "film", "is", "a", "story", "of", "two", "people", "and", "its", "end"]


def reviews(count, seed=0):
    """(text, "1" or "0") by a single telling word; lengths from 3 to 14 words."""
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        label = draw.randrange(2)
        words = [draw.choice(REST) for _ in range(draw.randrange(2, 14))]
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[label]))
        out.append((" ".join(words), str(label)))
    return out


def write_tsv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(header), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)
