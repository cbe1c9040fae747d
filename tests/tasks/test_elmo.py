"""`jaxlm finetune sst2_elmo` from end to end, on a biLM that stays as it is."""

import json

import jax
import numpy as np
import pytest
from reviews import BAD, GOOD, REST
from roads import digest, mistake

import jaxlm
from jaxlm.checkpoints import Checkpoints
from jaxlm.cli import main
from jaxlm.config import TaskConfig, TextConfig, elmo
from jaxlm.convert.elmo import from_params
from jaxlm.convert.model_directory import export_model
from jaxlm.families import build, family_of
from jaxlm.tasks.batches import padded_batch
from jaxlm.tasks.classes import encode
from jaxlm.tasks.finetuned import best_figures
from jaxlm.tasks.model import mix_figures
from jaxlm.tasks.tables import Example
from jaxlm.text.characters import word_characters
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params
from jaxlm.tree import leaves
from jaxlm.types import UserError

MODEL = elmo(
    "tiny",
    vocab_size=0,
    d_model=48,
    d_ff=64,
    filters=(16, 64),
    max_characters=12,
    dropout=0.0,
)
FLAGS = [
    *("--batch", "16", "--length", "32", "--optim.peak", "0.02", "--mesh.data", "1"),
    *("--log.tensorboard", "false", "--log.every", "5", "--save_every", "50"),
    *("--task.buckets", "16", "--task.width", "16", "--task.epochs", "16"),
    *("--task.dropout", "0.05"),
]


@pytest.fixture(scope="module")
def words():
    texts = [" ".join([*GOOD, *BAD, *REST])] * 9
    return train_tokenizer(texts, TextConfig(tokenizer="words", lowercase=False), 40)


@pytest.fixture(scope="module")
def model(words, tmp_path_factory):
    """A directory as AllenNLP's, with a -0 among its weights."""
    # Vectors as far from 0 as those of a model that has learnt.
    params = jax.tree.map(lambda x: 2.5 * x, init_params(build(MODEL), 0))
    kernel = params["layers"]["kernel"]
    params["layers"]["kernel"] = kernel.at[0, 0, 0, 0, 0].set(-0.0)
    out = tmp_path_factory.mktemp("elmo") / "m"
    export_model(out, from_params(MODEL, params), words, origin={})
    return str(out)


def command(model, data, workdir, *more, recipe="sst2_elmo"):
    where = ["--init", model, "--data", data, "--workdir", str(workdir)]
    return ["finetune", recipe, *where, *FLAGS, *more]


@pytest.fixture(scope="module")
def run(model, sst2, tmp_path_factory):
    """(workdir, what was printed, state sha256) of an uninterrupted run."""
    import contextlib
    import io

    workdir = tmp_path_factory.mktemp("run") / "r"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(command(model, sst2, workdir)) == 0
    out = printed.getvalue()
    return workdir, out, out.split("state sha256 ")[1].split()[0]


def test_rows_are_words_and_a_pair_is_two_sentences(words):
    frame = family_of(MODEL).frame(MODEL, words, task=True)
    one = Example("it's dull", None, None, "")
    rows = encode([one, one._replace(text="warm")], frame, 8)
    batch = padded_batch(rows, np.array([0, 1]), 4)
    want = word_characters(["it", "'", "s", "dull"], slots=12)
    assert batch.tokens.dtype == np.uint16 and batch.tokens.shape == (2, 4, 12)
    np.testing.assert_array_equal(batch.tokens[0], want)
    assert batch.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert not batch.tokens[1, 1:].any() and not batch.token_types.any()
    pair = one._replace(pair="a b c d e f")
    rows = encode([pair], frame, 9)
    kept = ["it", "'", "s", "dull", "</S>", "<S>", *"abc"]
    np.testing.assert_array_equal(rows.tokens[0], word_characters(kept, slots=12))
    assert rows.notes == ("1 row cut to 9 tokens",)
    # A word that was given stays one, whatever the tokenizer would cut it into.
    given = frame.words(["it's", "\x00"])
    assert [len(each) for each in given] == [1, 1]
    np.testing.assert_array_equal(given[0], word_characters(["it's"], slots=12))


@pytest.mark.long
def test_it_learns_and_says_what_each_layer_is_worth(run):
    workdir, out, _ = run
    text = (workdir / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    found = [each for each in found if "eval_accuracy" in each]
    assert len(found) == 16 and max(each["eval_accuracy"] for each in found) > 0.75
    names = [f"eval_mix_layer{n}" for n in range(3)]
    for each in found:
        assert sum(each[name] for name in names) == pytest.approx(1, abs=1e-6)
        assert each["eval_mix_gamma"] != 1
    # Which word it is, is told by the word alone.
    assert found[-1]["eval_mix_layer0"] > 0.4
    best = Checkpoints(f"{workdir}/best")
    meta = best.stored().meta
    assert sum(meta[f"mix_layer{n}"] for n in range(3)) == pytest.approx(1, abs=1e-6)
    assert f"mix layer0 {meta['mix_layer0']:.4g}" in out.split("best step")[1]


def test_the_bilm_keeps_its_bits_and_has_no_moments(run, model):
    workdir, _, _ = run
    kept = Checkpoints(workdir)
    moments = [path for path in kept.stored().digests if path.startswith("opt_state")]
    assert any("body/" in path for path in moments)
    assert not any("words/" in path or "/layers/" in path for path in moments)
    from jaxlm.tasks.finetuned import open_finetuned

    fitted = open_finetuned(workdir)
    before, after = dict(leaves(jaxlm.load(model).params)), dict(leaves(fitted.params))
    for path, leaf in before.items():
        assert np.asarray(leaf).tobytes() == np.asarray(after[path]).tobytes(), path


@pytest.mark.long
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    run, model, sst2, tmp_path, capsys
):
    words = command(model, sst2, tmp_path / "r")
    for stop in (5, 20):
        assert main([*words, "--stop", str(stop)]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert digest(capsys) == run[2]


def test_evaluate_and_predict_agree_with_the_run(run, sst2, tmp_path, capsys):
    capsys.readouterr()
    dev = f"{sst2}/dev.tsv"
    assert main(["evaluate", str(run[0]), "--data", dev, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    logged = (run[0] / "metrics.jsonl").read_text().splitlines()
    logged = next(r for r in map(json.loads, logged) if r["step"] == figures["step"])
    for name in ("accuracy", "mix_layer0", "mix_gamma"):
        assert figures[name] == logged[f"eval_{name}"]
    out = tmp_path / "out.tsv"
    assert main(["predict", str(run[0]), "--data", dev, "--out", str(out)]) == 0
    answers = [line.split("\t")[0] for line in out.read_text().splitlines()[1:]]
    with open(dev) as file:
        truth = [line.rstrip().split("\t")[1] for line in file][1:]
    right = np.mean([a == b for a, b in zip(answers, truth, strict=True)])
    assert right == pytest.approx(figures["accuracy"])


@pytest.mark.long
def test_the_same_without_contexts_or_without_pretraining(
    model, sst2, tmp_path, capsys
):
    """The baselines: word vectors as they are, and learnt from the task."""
    quick = ["--task.epochs", "1", "--task.layers", "0", "--accumulate", "2"]
    fresh = ["--task.fresh", "words/.*", "--task.freeze", "layers/.*"]
    words = command(model, sst2, tmp_path / "r", *quick, *fresh, "--task.mix", "both")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "words/embed/table" in out.split("initialised at random:")[1]
    assert "mix layer0 1 " in out and "mix out layer0 1 " in out
    assert "layer1" not in out
    from jaxlm.tasks.finetuned import open_finetuned

    before = dict(leaves(jaxlm.load(model).params))
    after = dict(leaves(open_finetuned(tmp_path / "r").params))
    for path, leaf in before.items():
        same = np.array_equal(leaf, after[path])
        assert same == path.startswith("layers/") or not np.any(leaf), path


@pytest.mark.long
def test_words_are_tagged_one_by_one(model, tmp_path, capsys):
    sentences = ["Mr. X-ray is dull", "the film", "warm and wet and so on it goes " * 3]
    lines = []
    for sentence in sentences * 12:
        for word in sentence.split():
            lines.append(f"{word}\t{'B-A' if word[0] in 'Xfw' else 'O'}")
        lines.append("")
    for name in ("train", "dev"):
        (tmp_path / f"{name}.conll").write_text("\n".join(lines))
    more = ["--task.epochs", "20", "--eval_every", "0", "--length", "16"]
    more += ["--task.depth", "1"]
    words = command(model, str(tmp_path), tmp_path / "r", *more, recipe="ner_elmo")
    assert main(words) == 0
    assert "12 more rows for long sentences" in capsys.readouterr().err
    dev = str(tmp_path / "dev.conll")
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "r"), "--data", dev, "--out", str(out)]) == 0
    told = [line.split("\t") for line in out.read_text().splitlines() if line]
    assert [word for word, _ in told] == " ".join(sentences * 12).split()
    assert main(["evaluate", str(tmp_path / "r"), "--data", dev, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["entity_f1"] > 0.9


@pytest.mark.shared
def test_the_released_fixture_is_a_trunk(shared, sst2, tmp_path, capsys):
    model = str(shared / "elmo_fixture" / "allennlp")
    words = command(model, sst2, tmp_path / "r", "--task.epochs", "0.5")
    assert main([*words, "--task.pooling", "attention", "--task.limit", "64"]) == 0
    assert "mix layer2" in capsys.readouterr().out


def test_mistakes_are_one_line(run, model, model_directory, sst2, tmp_path, capsys):
    def said(*more, model=model, recipe="sst2_elmo"):
        return mistake(
            capsys, *command(model, sst2, tmp_path / "r", *more, recipe=recipe)
        )

    words = command(model, sst2, tmp_path / "r", recipe="sst2")
    at = words.index("--task.width")  # it has no BiLSTM
    found = mistake(capsys, *words[:at], *words[at + 2 :])
    assert "an ELMo, which has no pooler: pass --task.pooling max" in found
    assert "an ELMo, which has no cls" in said("--task.pooling", "cls")
    assert "task.pooling = pooler is of the last layer" in said(
        "--task.pooling", "pooler"
    )
    assert "pass --task.body bilstm, or --task.mix input" in said(
        "--task.mix", "both", "--task.body", "none"
    )
    assert "are of a mix: pass --task.mix input" in said("--task.mix", "none")
    assert "task.layers = 0 3: pass different layers" in said("--task.layers", "0", "3")
    assert "task.layers = 2 -1: pass different" in said("--task.layers", "2", "-1")
    assert "'embed/.*' matches no parameter; one is words/" in said(
        "--task.freeze", "embed/.*"
    )
    assert "--task.fresh '(': missing )" in said("--task.fresh", "(")
    assert "task.kind = spans needs a BERT" in said(
        *("--task.kind", "spans", "--task.metric", "f1")
    )
    assert "task.dropout = 1.0 is not in [-1, 1)" in said("--task.dropout", "1")
    # A BERT has other names, and no ELMo reads what a BERT was trained on.
    assert "matches no parameter" in said(model=model_directory)
    other = ["export", str(run[0]), "--to", "hf", "--out", str(tmp_path / "o")]
    assert "transformers has no ELMo" in mistake(capsys, *other)


@pytest.mark.long
def test_a_bert_s_layers_are_mixed_too_and_have_no_class_in_transformers(
    model_directory, sst2, tmp_path, capsys
):
    more = ["--task.freeze", "embed/.*", "layers/.*", "--task.epochs", "1"]
    more += ["--task.normalise", "true", "--task.pooling", "attention"]
    words = command(model_directory, sst2, tmp_path / "r", *more)
    assert main(words) == 0
    assert "mix layer2" in capsys.readouterr().out
    said = mistake(
        capsys, "export", str(tmp_path / "r"), "--to", "hf", "--out", str(tmp_path)
    )
    assert "fine-tune with --task.mix none --task.body none" in said


def test_shares_are_the_softmax_of_the_weights():
    params = {"mix": {"weights": np.log([1.0, 3.0]), "scale": np.float32(2)}}
    found = mix_figures(params, (0, 2))
    assert found == pytest.approx(
        {"mix_layer0": 0.25, "mix_layer2": 0.75, "mix_gamma": 2}
    )
    with pytest.raises(UserError, match=r"penalty = -1.0 must be at least 0"):
        TaskConfig(penalty=-1.0)


@pytest.mark.probe
def test_weights_of_tasks_are_on_one_page(run, tmp_path, capsys):
    workdir, out = run[0], tmp_path / "w.html"
    (tmp_path / "two").mkdir()
    for seed in range(2):
        (tmp_path / "two" / f"seed-{seed}").symlink_to(workdir)
    several = str(tmp_path / "two")
    assert main(["probe", "weights", str(workdir), several, "--out", str(out)]) == 0
    _, meta = best_figures(workdir)
    best = [meta[f"mix_layer{n}"] for n in range(3)]
    tables = json.loads(out.with_suffix(".json").read_text())["tables"]
    weights = tables["Layer weights"]
    assert weights["layer"] == ["0 (embedding)", "1", "2"]
    assert weights[workdir.name] == weights["two"] == pytest.approx(best)
    assert weights["two ±"] == [0.0] * 3
    over = tables[f"{workdir.name} over training"]
    first = (workdir / "metrics.jsonl").read_text().split('"eval_mix_layer2": ')[1]
    assert over["layer 2"][0] == float(first.split(",")[0].split("}")[0])
    assert out.read_text().count("<svg") == 3
    capsys.readouterr()
    line = mistake(capsys, "probe", "weights", str(tmp_path))
    assert "no evaluated mix of layers; finetune --task.mix" in line
