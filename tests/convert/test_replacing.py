"""An export replaces an earlier one as a whole, and nothing else."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from exported import CONFIGS, export, random_params, read, same

from jaxlm.cli import main
from jaxlm.types import UserError


def test_an_export_killed_midway_leaves_the_old_one(tmp_path):
    """SIGKILL while the weights are written: at another place each time."""
    export(tmp_path / "out", "bert", seed=1, digests=True)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    for at in (1, 9, 30):
        code = f"""
            import os, signal, sys
            sys.path.insert(0, {str(Path(__file__).parents[1])!r})
            import jaxlm.convert.tensors as tensors
            cast, calls = tensors.cast, iter(range(1000))
            def count(*args):
                if next(calls) == {at}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return cast(*args)
            tensors.cast = count
            from pathlib import Path
            from exported import export
            export(Path({str(tmp_path / "out")!r}), "bert", seed=2, digests=True)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
        assert done.returncode == -signal.SIGKILL
        after = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
        assert after == before
    export(tmp_path / "out", "bert", seed=2, digests=True)
    same(read(tmp_path / "out").params, random_params(CONFIGS["bert"], seed=2))


def test_the_model_that_is_read_is_not_replaced(tmp_path, capsys):
    """As ONNX or as a sentence model it would be without its weights or heads."""
    model, other = str(tmp_path / "out"), str(tmp_path / "other")
    export(tmp_path / "out", "bert", digests=True)
    for words in (
        ["export", model, "--to", "onnx", "--out", f"{other}/../out"],
        ["import", model, "--out", model],
        ["import", other, "--tokenizer", model, "--out", model],
    ):
        assert main(words) == 2
        assert "is the directory that is read: name another" in capsys.readouterr().err
    same(read(tmp_path / "out").params, random_params(CONFIGS["bert"]))


def test_other_peoples_directories_are_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files and is not an export"):
        export(tmp_path / "out", "bert")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]
