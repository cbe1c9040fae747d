"""Commands on a run of seconds, and what they leave on standard error."""

from pathlib import Path

from jaxlm.cli import main

SIZE = ["--model.vocab_size", "600"]
TINY = """
    --model.vocab_size 600 --model.num_layers 1 --model.num_heads 2 --model.d_model 16
    --model.d_ff 32 --batch 8 --length 32 --predictions 5 --log.tensorboard false
    --mesh.data 1 --steps 4 --save_every 2 --eval_every 2 --log.every 2
""".split()  # noqa: SIM905


def again(run: Path, *more: str) -> list[str]:
    corpus = str(run.parent / "corpus")
    return [
        "pretrain",
        "bert_tiny",
        "--corpus",
        corpus,
        "--workdir",
        str(run),
        *TINY,
        *more,
    ]


def mistake(capsys, *argv: str) -> str:
    """The one line that a command which must fail leaves behind."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    out, error = capsys.readouterr()
    assert not out and "Traceback" not in error
    first, *rest = error.strip().splitlines()
    assert first.startswith("jaxlm: ")
    assert all(line.startswith("  ") for line in rest), error
    return error
