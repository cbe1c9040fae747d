"""Made-up film reviews: one word decides the label, so a tiny model learns the task."""

import random

GOOD = ["charming", "warm", "witty", "bright", "lovely", "fresh"]
BAD = ["dull", "bleak", "stale", "clumsy", "tired", "sour"]
REST = ["the", "film", "is", "a", "story", "of", "two", "people", "and", "its", "end"]


def reviews(count, seed=0):
    """`count` pairs of a text of 3 to 14 words and its label, "1" (good) or "0"."""
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
