"""Files of weights: in parts, damaged, changed, not fetched, or pickles."""

import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import WEIGHTS, edit, export, read, same
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.convert.model_directory import import_model
from jaxlm.types import Note, UserError


def test_parts_and_their_index(tmp_path):
    out = tmp_path / "out"
    params = export(out, "gpt2")
    tensors = load_file(out / WEIGHTS)
    (out / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, each in parts.items():
        save_file({name: tensors[name] for name in each}, out / file)
    index = {name: file for file, each in parts.items() for name in each}
    path = out / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    same(read(out).params, params)
    for bad in ("../a.safetensors", "/etc/passwd", "x/../a.safetensors"):
        path.write_text(json.dumps({"weight_map": {**index, names[0]: bad}}))
        with pytest.raises(UserError, match="not the name of a file beside it"):
            read(out)
    path.write_text(json.dumps({"weight_map": {**index, names[0]: "c.safetensors"}}))
    with pytest.raises(UserError, match=r"names c\.safetensors, which is not there"):
        read(out)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 10**12) + path.read_bytes()[8:])


def overlap(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    _, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = [x - 4 for x in header[second]["data_offsets"]]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize("damage", [truncate, huge_header, overlap])
def test_damaged_files_are_refused_and_nothing_is_written(damage, tmp_path):
    export(tmp_path / "out", "bert")
    damage(tmp_path / "out" / WEIGHTS)
    with pytest.raises(UserError, match="is not a sound safetensors file"):
        import_model(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "in").exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin"])
def test_a_pointer_in_place_of_the_weights_is_named(name, tmp_path):
    export(tmp_path / "out", "bert")
    (tmp_path / "out" / WEIGHTS).unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440\n"
    (tmp_path / "out" / name).write_text(pointer)
    with pytest.raises(
        UserError, match=f"{name} is a Git LFS pointer: .* git lfs pull"
    ):
        import_model(tmp_path / "out", tmp_path / "in")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    export(tmp_path / "out", "bert")
    edit(tmp_path / "out", lambda t: t["cls.predictions.bias"].__setitem__(4, np.nan))
    with pytest.raises(UserError, match=r"1 of 150 elements of cls\.predictions\.bias"):
        import_model(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "in").exists()
    with pytest.raises(UserError, match=r"1 of 150 elements of cls\.predictions\.bias"):
        jaxlm.load(tmp_path / "out")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_noticed_in_every_file(tmp_path):
    out = tmp_path / "out"
    export(out, "bert", digests=True)
    names = {file.name for file in out.iterdir()} - {"README.md", "jaxlm_export.json"}
    assert {"config.json", "vocab.txt", "tokenizer.json", WEIGHTS} < names
    for name in names:
        flip(out / name, -9)
        with pytest.raises(UserError, match=f"{name} is not as it was .* delete"):
            jaxlm.load(out)
        with pytest.raises(UserError, match=f"{name} is not as it was"):
            import_model(out, tmp_path / "in")
        flip(out / name, -9)
    flip(out / "README.md", 9)  # people edit it
    with pytest.warns(Note, match=r"README\.md is not as it was written"):
        jaxlm.load(out)
    flip(out / "README.md", 9)
    digests = (out / "jaxlm_export.json").read_bytes()
    for at in range(5, len(digests), len(digests) // 20):
        flip(out / "jaxlm_export.json", at)
        with pytest.raises(
            UserError, match=r"jaxlm_export\.json .*: delete it to go on"
        ):
            jaxlm.load(out)
        flip(out / "jaxlm_export.json", at)
    (out / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt is lost"):
        jaxlm.load(out)
    listed = {"format": 1, "origin": {}, "sha256": {"../x": ""}}  # as older versions
    (out / "jaxlm_export.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="which is not beside it"):
        jaxlm.load(out)
    (out / "jaxlm_export.json").write_text('{"sha257": {}}')
    with pytest.raises(UserError, match="is damaged: delete it"):
        jaxlm.load(out)


class Canary:
    """What a pickle can do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_a_pickle_is_read_by_wish_alone_and_never_run(tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(out, "bert")
    (out / WEIGHTS).unlink()
    canary = tmp_path / "sung"
    with open(out / "pytorch_model.bin", "wb") as file:
        pickle.dump({"bert.x": Canary(str(canary))}, file)
    with pytest.raises(UserError, match="can run code as it is read"):
        import_model(out, tmp_path / "in")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match="needs torch: pip install torch"):
            import_model(out, tmp_path / "in", pickle=True)
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="is refused by torch's loader"):
        import_model(out, tmp_path / "in", pickle=True)
    assert not canary.exists() and not (tmp_path / "in").exists()


@pytest.mark.oracle
def test_a_pickle_of_plain_weights_may_be_read(tmp_path):
    import torch

    out = tmp_path / "out"
    params = export(out, "bert")
    tensors = {k: torch.tensor(v) for k, v in load_file(out / WEIGHTS).items()}
    (out / WEIGHTS).unlink()
    torch.save(tensors, out / "pytorch_model.bin")
    import_model(out, tmp_path / "in", tokenizer=out, pickle=True)
    same(read(tmp_path / "in").params, params)
