"""GPT-2's protocols: prompts and scores counted by hand from the paper's words."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from exported import export

import jaxlm
from jaxlm.cli import main
from jaxlm.scoring import Scored, Scorer, Scoring
from jaxlm.types import UserError
from jaxlm.zeroshot import lambada, lm, reading, summary, translation
from jaxlm.zeroshot.protocol import Options, filled, with_template

pytestmark = pytest.mark.usefixtures("without_type_checks")


class Model:
    """Says what it is told to, and remembers what it was asked; a letter is a token."""

    config = SimpleNamespace(max_length=400)
    tokenizer = SimpleNamespace(
        encode=lambda text, specials=True: SimpleNamespace(ids=list(text)),
        vocab_size=50,
    )

    def __init__(self, answer: str = ""):
        self.answer, self.asked = answer, []

    def generate(self, prompts, sampling):
        self.asked += [(prompt, sampling) for prompt in prompts]
        return [SimpleNamespace(text=self.answer) for _ in prompts]

    def score(self, texts, prompts="", stride=0):
        """Two tokens a word, each with the probability one half."""
        counts = [2 * len(text.split()) for text in texts]
        return [
            Scored((), np.full(n, -math.log(2)), np.ones(n, bool), True) for n in counts
        ]


def run(protocol, model, items, prompt="", **options):
    variants = with_template(protocol.VARIANTS, prompt)
    report = protocol.run(model, items, variants, Options(**options))
    return report, {(f.variant, f.name): f for f in report.figures}


def squad(path):
    questions = [("Who sat?", "The cat"), ("Where?", "on the mat")]
    text = "The cat sat on the mat. It slept."
    asked = [
        {"id": str(i), "question": q, "answers": [{"text": a, "answer_start": 0}]}
        for i, (q, a) in enumerate(questions)
    ]
    paragraphs = [{"context": text, "qas": asked}]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return reading.read([str(path)])


def test_reading_shows_the_document_and_the_history(tmp_path):
    model = Model(" a cat on the mat\nQ: more?")
    report, found = run(reading, model, squad(tmp_path / "squad.json"))
    by_length = [prompt for prompt, _ in model.asked]
    assert by_length == [
        "The cat sat on the mat. It slept.\n\nQ: Who sat?\nA:",
        "The cat sat on the mat. It slept.\n\nQ: Who sat?\nA: The cat\nQ: Where?\nA:",
        "The cat sat on the mat. It slept.\n\nQ: Who sat?\n\nA:",
        "The cat sat on the mat. It slept.\n\n"
        "Q: Who sat?\n\nA: The cat\n\nQ: Where?\n\nA:",
    ]
    assert {sampling.temperature for _, sampling in model.asked} == {0.0}
    # "cat on mat" against "cat": 2·1/(3+1); against "on mat": 2·2/(3+2).
    assert found["paper", "F1"].value == pytest.approx((0.5 + 0.8) / 2)
    assert found["paper", "EM"].value == 0
    # The first sentence is "cat sat on mat": 2·1/(4+1) and 2·2/(4+2).
    assert found["paper", "F1"].beside["first sentence"] == pytest.approx(
        (0.4 + 2 / 3) / 2
    )
    assert {a["answer"] for a in report.answers} == {"a cat on the mat"}


def test_a_conversation_is_read_with_all_its_answers(tmp_path):
    turn = [{"input_text": "Who sat?"}], [{"input_text": "the cat"}]
    more = {"0": [{"input_text": "a pet"}]}
    item = {
        "id": "x",
        "story": "The cat sat.",
        "questions": turn[0],
        "answers": turn[1],
    }
    path = tmp_path / "coqa.json"
    path.write_text(json.dumps({"data": [{**item, "additional_answers": more}]}))
    (asked,) = reading.read([str(path)])
    assert asked == ("x.1", "The cat sat.", (), "Who sat?", ("the cat", "a pet"))


def test_a_document_loses_its_end_and_is_counted(tmp_path):
    items = squad(tmp_path / "squad.json")
    model = Model("cat")
    model.config = SimpleNamespace(max_length=24 + 30)
    report, _ = run(reading, model, items[:1])
    assert model.asked[0][0] == "The cat sat on\n\nQ: Who sat?\nA:"
    assert report.notes[0].startswith("paper: 1 of 1 documents were cut")
    model.config = SimpleNamespace(max_length=20)
    with pytest.raises(UserError, match="context of 20 tokens has no room"):
        run(reading, model, items)


@pytest.mark.zeroshot
@pytest.mark.filterwarnings("ignore")
def test_summaries_are_three_sentences_of_a_hundred_tokens(tmp_path):
    story = "One is here. Two is there. Three came. Four went.\n\n@highlight\n\nTwo is"
    (tmp_path / "a.story").write_text(story + " there\n\n@highlight\n\nFour went\n")
    items = summary.read([str(tmp_path)])
    assert items == [("a", story.partition("\n")[0], "Two is there\nFour went")]
    model = Model(" Two is there. Four went. Five. Six is not read.")
    _, found = run(summary, model, items)
    prompts = [prompt for prompt, _ in model.asked]
    article = items[0].article
    assert prompts[:2] == [f"{article}\nTL;DR:", f"{article}\n"]
    assert all((s.top_k, s.max_tokens) == (2, 100) for _, s in model.asked[:2])
    # Unigrams: five of five, and of the six said.
    assert found["paper", "rouge1"].value == pytest.approx(2 * 5 / (5 + 6))
    # The first three: "Two is there" of five words, in eight.
    assert found["paper", "rouge1"].beside["lead-3"] == pytest.approx(2 * 3 / (5 + 8))


@pytest.mark.zeroshot
@pytest.mark.filterwarnings("ignore")
def test_translations_follow_example_pairs(tmp_path):
    import sacrebleu

    pairs = [(f"word {i} of it", f"le mot {i} de tout cela") for i in range(5)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    items = translation.read([str(path)])
    model = Model(" le mot 3 de tout cela\nword 9 = no")
    report, found = run(translation, model, items, shots=2)
    answers = [each for each in report.answers if each["variant"] == "paper"]
    shown = [pair for pair in pairs if pair[0] not in {a["source"] for a in answers}]
    prompt, sampling = model.asked[0]
    assert sampling.temperature == 0
    examples = {f"{a} = {b}" for a, b in shown}
    assert {*prompt.split("\n")[:2]} == examples
    assert prompt.split("\n")[2:] == [f"{answers[0]['source']} ="]
    assert model.asked[3][0].endswith(" of it\nFrench phrase:")
    said = ["le mot 3 de tout cela"] * 3
    want = sacrebleu.corpus_bleu(said, [[a["truth"] for a in answers]]).score
    figure = found["paper", "BLEU, seed 0"]
    assert figure.value == pytest.approx(want) and figure.n == 3
    assert "tok:13a|smooth:exp|version:" in report.notes[0]


def test_a_last_word_is_right_if_all_its_tokens_are(tmp_path):
    export(tmp_path / "m", "gpt2")
    gpt = jaxlm.load(tmp_path / "m")
    data = tmp_path / "lambada.jsonl"
    texts = ["It was a truth", "nobody was out of"]
    data.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    items = lambada.read([str(data)])
    assert items == [("It was a", "truth"), ("nobody was out", "of")]
    report, found = run(lambada, gpt, items)
    scored = gpt.score([" truth", " of"], ["It was a", "nobody was out"])
    mean = np.mean([each.total for each in scored])
    assert found["community", "perplexity"].value == pytest.approx(math.exp(-mean))
    last = np.mean([each.log_p[-1] for each in scored])
    assert found["paper", "perplexity"].value == pytest.approx(math.exp(-last))
    level = found["community", "accuracy"].beside["a word of the passage"]
    assert level == 0 and len(report.answers) == 2
    # A token that is barred gives way to the next best.
    (next_id,) = gpt.tokenizer.encode("t").ids
    scorer = Scorer(gpt.module, gpt.params, gpt.tokenizer)
    others = [i for i in range(gpt.config.vocab_size) if i != next_id]
    for never, likeliest in ((others, True), ([next_id], False)):
        (each,) = scorer.score(["t"], ["It was a"], Scoring(), never)
        assert each.likeliest.tolist() == [likeliest]


def test_perplexity_counts_the_words_of_the_file():
    text = " = A title = \n \n One , two . \n"
    report, found = run(lm, Model(), [text * 2])
    figure = found["community", "perplexity of a word"]
    # Two documents of 8 words, and one more of the harness's: what follows the last.
    assert figure.n == 2 * (len(text.split()) + 2)
    assert figure.value == pytest.approx(2 ** (2 * 16 / figure.n))
    assert found["paper", "perplexity of a word"].n == 2 * (8 + 3)  # with ends of lines
    bits = found["paper", "bits a byte"]
    assert bits.value == pytest.approx(2 * 16 / (2 * len(text)))
    assert found["paper", "perplexity of a token"].value == pytest.approx(2)
    assert report.answers == []


def test_wikitext_is_as_it_was_before_it_was_cut():
    cut = 'It cost £ 1 @,@ 000 @.@ 5 ( about " ten " ) , they say : it \'s co @-@ ed .'
    assert lm.wikitext(cut) == 'It cost £1,000.5 (about "ten"), they say: it\'s co-ed.'
    assert lm.ptb("it 's $ N and do n't") == "it's $1 and don't"


@pytest.mark.zeroshot
@pytest.mark.filterwarnings("ignore")
def test_the_harness_cuts_wikitext_as_its_task_does():
    detokenise = lm.of_the_harness()
    assert detokenise
    assert detokenise(" = A = \n a @-@ b , c . \n") == " = A =\na-b, c.\n"


def test_a_template_of_ones_own_names_its_fields(tmp_path):
    assert filled("{a} of {b}", {"a": "1", "b": "{x}"}) == "1 of {x}"
    for template, message in (
        (
            "{documnt}: {question}",
            "has {documnt}: did you mean document? its fields are",
        ),
        ("{document", "expected '}'"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            run(reading, Model(), squad(tmp_path / "s.json"), prompt=template)
    model = Model("cat")
    _, found = run(
        reading, model, squad(tmp_path / "s.json"), prompt="{document} {question}"
    )
    assert {name for name, _ in found} == {"yours"}
    assert {prompt.partition("slept. ")[2] for prompt, _ in model.asked} == {
        "Who sat?",
        "Where?",
    }


def test_a_gpt_runs_from_the_command_line(tmp_path, capsys):
    export(tmp_path / "gpt2", "gpt2")
    (tmp_path / "a.jsonl").write_text('{"text": "It was a truth"}\n')
    words = ["zeroshot", str(tmp_path / "gpt2")]
    assert main([*words, "--protocol", "lambada", "--data", f"{tmp_path}/a.jsonl"]) == 0
    assert "a word of the passage 0.000" in capsys.readouterr().out
    assert main([*words, "--prompt", "It was"]) == 0
    assert capsys.readouterr().out.startswith("It was")
    assert main([*words, "--protocol", "reading", "--data", f"{tmp_path}/a.jsonl"]) == 2
    assert "it looks like one of --protocol lambada" in capsys.readouterr().err
    (tmp_path / "b.tsv").write_text("one\n")
    data = ["--data", f"{tmp_path}/b.tsv"]
    assert main([*words, "--protocol", "translation", *data]) == 2
    assert "line 1 has 1 column" in capsys.readouterr().err
    (tmp_path / "c.jsonl").write_text('{"text": "word"}\n')
    assert main([*words, "--protocol", "lambada", "--data", f"{tmp_path}/c.jsonl"]) == 2
    assert "no passage before a last word" in capsys.readouterr().err
