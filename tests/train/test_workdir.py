"""A run directory has one owner at a time, and a format."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from states import ROOT
from tiny import tiny

from jaxlm.checkpoints import Checkpoints, RunFiles
from jaxlm.checkpoints.manifest import FORMAT
from jaxlm.config import RunConfig
from jaxlm.text.corpus import open_corpus
from jaxlm.train.workdir import (
    claim_workdir,
    corpus_of,
    lock,
    open_workdir,
    provenance,
    read_config,
)
from jaxlm.types import UserError

HOLD = """
import sys, time
from jaxlm.train.workdir import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_directory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
                lock(tmp_path).__enter__()
        finally:
            holder.send_signal(signal.SIGKILL)
    mine = f"in use by process {os.getpid()} on "
    with lock(tmp_path), pytest.raises(UserError, match=mine):
        lock(tmp_path).__enter__()  # the kernel let go with the process
    with lock(tmp_path):
        pass


def test_a_run_directory_of_another_format_is_refused_in_one_line(tmp_path):
    """Even if its config has fields that no longer exist."""
    claim_workdir(tmp_path, RunConfig(), {}, ["pretrain"], lambda to: None)
    assert read_config(tmp_path) == RunConfig()
    (record,) = json.loads((tmp_path / "provenance.json").read_text())
    assert record.pop("format") == FORMAT == 2
    del record["sha256"]
    (tmp_path / "provenance.json").write_text(json.dumps([record]))
    (tmp_path / "config.json").write_text('{"gone": 1}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    line = f"{tmp_path} has format 1; this jaxlm reads 2: .*"
    with pytest.raises(UserError, match=line):
        read_config(tmp_path)
    with pytest.raises(UserError, match=line) as error:
        claim_workdir(tmp_path, RunConfig(), {}, ["pretrain"], lambda to: None)
    assert "\n" not in str(error.value)


def test_no_flip_in_a_config_or_a_provenance_goes_unseen(tmp_path):
    claim_workdir(tmp_path, RunConfig(), {"corpus": "x"}, ["a"], lambda to: None)
    draw, records = random.Random(0), provenance(tmp_path)
    for name in ("config.json", "provenance.json"):
        path, seen = tmp_path / name, 0
        sound = path.read_bytes()
        for trial in range(300):
            harmed = bytearray(sound)
            at = draw.randrange(len(sound))
            harmed[at] ^= 1 << trial % 8
            path.write_bytes(harmed if trial % 4 else sound[:at])
            try:
                assert read_config(tmp_path) == RunConfig()
                # A digest by another name is one that nobody compares.
                (found,) = provenance(tmp_path)
                assert records[0].items() <= found.items()
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
                seen += 1
        assert seen > 200
        path.write_bytes(sound)
    assert read_config(tmp_path) == RunConfig()


def test_a_run_moved_with_its_corpus_finds_it(tmp_path, corpus_directory):
    shutil.copytree(corpus_directory, tmp_path / "a/corpus")
    run, corpus = tmp_path / "a/run", open_corpus(str(tmp_path / "a/corpus"))
    open_workdir(run, tiny(), corpus, ["pretrain"])
    assert corpus_of(run) == str(tmp_path / "a/corpus")
    run = (tmp_path / "a").rename(tmp_path / "b") / "run"
    assert corpus_of(run) == str(tmp_path / "b/corpus")
    # Another corpus where it was before does not count.
    shutil.copytree(tmp_path / "b/corpus", tmp_path / "a/corpus")
    manifest = json.loads((tmp_path / "a/corpus/manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["tokens/c/0"]["sha256"] = "0" * 64
    (tmp_path / "a/corpus/manifest.json").write_text(json.dumps(manifest))
    assert corpus_of(run) == str(tmp_path / "b/corpus")
    # A run that was moved alone finds it where it was.
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    run = (tmp_path / "a/run").rename(tmp_path / "run")
    assert corpus_of(run) == str(tmp_path / "a/corpus")


def test_a_file_that_is_lost_is_written_anew_by_the_same_command_only(tmp_path, corpus):
    """The newest checkpoint knows the config and the digests of what it stands on."""
    config, digests = tiny(), {"tokenizer_sha256": "a" * 64}
    claim_workdir(tmp_path, config, digests, ["a"], lambda to: None)
    checkpoints = Checkpoints(tmp_path, run=RunFiles(config, digests))
    checkpoints.open()
    checkpoints.save(4, {"a": np.ones(3)}, {})
    checkpoints.wait()
    for name in ("config.json", "provenance.json"):
        sound = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(sound[:9])
        with pytest.raises(UserError, match=f"{name} cannot be read .* delete it; the"):
            claim_workdir(tmp_path, config, digests, ["a"], lambda to: None)
        (tmp_path / name).unlink()
        other = {"tokenizer_sha256": "b" * 64}
        line = "checkpoints/4 was saved by another run: tokenizer_sha256 was aaa"
        with pytest.raises(UserError, match=line):
            claim_workdir(tmp_path, config, other, ["a"], lambda to: None)
        assert not (tmp_path / name).exists()
        claim_workdir(tmp_path, config, digests, ["a"], lambda to: None)
        assert read_config(tmp_path) == config
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="another run: seed was 3, is 4"):
        claim_workdir(tmp_path, tiny(seed=4), digests, ["a"], lambda to: None)
    free = tiny(save_every=9)
    claim_workdir(tmp_path, free, digests, ["a"], lambda to: None)
    assert read_config(tmp_path) == free
