"""Models go out as transformers has them and come back bit for bit, or not at all."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, export, random_params, same, tokenizer_of
from noted import noted
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.cli import main
from jaxlm.convert.huggingface import from_params
from jaxlm.convert.model_directory import export_model, import_model, read_model
from jaxlm.convert.model_types import model_type_of
from jaxlm.convert.rules import TensorTable
from jaxlm.convert.verify import verify
from jaxlm.families import parameter_shapes
from jaxlm.types import Note, UserError

WEIGHTS = "model.safetensors"


def read(directory):
    return read_model(directory, lambda _, array: jnp.asarray(array))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_trip_is_bitwise(name, tmp_path):
    params = export(tmp_path / "out", name)
    back = read(tmp_path / "out")
    assert back.config == CONFIGS[name]
    same(back.params, params)
    import_model(tmp_path / "out", tmp_path / "again")
    for file in (WEIGHTS, "tokenizer_config.json", "config.json"):
        one, two = (tmp_path / each / file for each in ("out", "again"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_table_covers_both_sides(name):
    """A parameter without a rule and a rule without a parameter are errors."""
    config = CONFIGS[name]
    shapes = parameter_shapes(config)
    rules = model_type_of(config).rules(config, shapes)
    TensorTable(rules, shapes)
    with pytest.raises(ValueError, match="matches no rule"):
        TensorTable(rules[1:], shapes)
    shapes["embed"].pop("token")
    with pytest.raises(ValueError, match="matches no leaf"):
        TensorTable(rules, shapes)


@pytest.mark.parametrize("dtype, least", [("bfloat16", 2**-9), ("float16", 2**-12)])
def test_half_precision_rounds_and_nothing_else(dtype, least, tmp_path):
    params = export(tmp_path / "out", "gpt2", dtype=dtype)
    want = np.asarray(params["layers"]["mlp"]["wi"]["kernel"])
    got = np.asarray(read(tmp_path / "out").params["layers"]["mlp"]["wi"]["kernel"])
    assert 0 < np.abs(got / want - 1).max() < 2 * least
    size = (tmp_path / "out" / WEIGHTS).stat().st_size
    export(tmp_path / "whole", "gpt2")
    assert size < 0.6 * (tmp_path / "whole" / WEIGHTS).stat().st_size


def test_what_float16_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    config = CONFIGS["bert"]
    params = random_params(config)
    params["mlm"]["bias"] = params["mlm"]["bias"].at[3].set(7e4)

    with pytest.raises(UserError, match=r"cls\.predictions\.bias reaches 7e\+04"):
        export_model(
            tmp_path / "out",
            from_params(config, params),
            tokenizer_of(config),
            dtype="float16",
            origin={},
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name", ["bert", "ernie", "roformer", "modernbert", "gpt1", "gpt2"]
)
def test_transformers_agrees_on_real_text(name, tmp_path):
    export(tmp_path / "out", name)
    report = verify(jaxlm.load(tmp_path / "out"), tmp_path / "out", "hf")
    assert report.passed, report.lines


@pytest.mark.parametrize("factor, passed", [(1 + 2e-6, True), (1 + 2e-5, False)])
def test_a_client_that_computes_otherwise_is_noticed(
    factor, passed, tmp_path, monkeypatch
):
    export(tmp_path / "out", "bert")
    model = jaxlm.load(tmp_path / "out")

    def client(to, out, asked):
        rows = [batch["input_ids"] for batch in asked["batches"]]
        arrays = [np.asarray(model.forward(row).logits[0]) * factor for row in rows]
        return {"version": "0", "what": "logits", "outputs": arrays}

    monkeypatch.setattr("jaxlm.convert.verify.run_client", client)
    report = verify(model, tmp_path / "out", "hf")
    assert report.passed == passed
    assert report.lines[-1].endswith("NO PARITY") != passed


@pytest.mark.oracle
@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_saves_comes_in(name, tmp_path):
    """Its own save, by its own names, gives the same parameters again."""
    import transformers

    params = export(tmp_path / "out", name)
    kind = json.loads((tmp_path / "out/config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "out")
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = _import(tmp_path / "theirs", tmp_path / "in", tmp_path / "out")
    same(loaded.params, params)


@pytest.mark.oracle
def test_verify_fails_where_the_tokenizer_cannot_be_loaded(tmp_path):
    """Equal logits of equal ids are no parity when nobody compared the ids."""
    export(tmp_path / "out", "bert")
    model = jaxlm.load(tmp_path / "out")
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "out" / name).write_text("damaged\n")
    report = verify(model, tmp_path / "out", "hf")
    assert not report.passed
    assert any("the tokenizer cannot be loaded" in line for line in report.lines)
    assert report.lines[-1].endswith("NO PARITY")


def _import(directory, out, tokenizer, **options):
    import_model(directory, out, tokenizer=tokenizer, **options)
    return read(out)


def edit(directory, change):
    """Change the tensors of a directory."""
    tensors = load_file(directory / WEIGHTS)
    tensors = change(tensors) or tensors
    save_file(tensors, directory / WEIGHTS)


def test_old_names_and_bare_ones_are_known(tmp_path):
    """gamma and beta, no prefix, buffers, and tied copies beside the original."""
    params = export(tmp_path / "out", "bert")

    def rename(tensors):
        old = {
            "LayerNorm.weight": "LayerNorm.gamma",
            "LayerNorm.bias": "LayerNorm.beta",
        }
        out = {}
        for name, array in tensors.items():
            for new, word in old.items():
                name = name.replace(new, word)
            out[name.removeprefix("bert.")] = array
        out["embeddings.position_ids"] = np.arange(40)[None]
        out["cls.predictions.decoder.weight"] = out["embeddings.word_embeddings.weight"]
        out["cls.predictions.decoder.bias"] = out.pop("cls.predictions.bias")
        return out

    edit(tmp_path / "out", rename)
    same(read(tmp_path / "out").params, params)


def test_an_untied_head_is_refused(tmp_path):
    export(tmp_path / "out", "gpt2")
    edit(
        tmp_path / "out",
        lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}),
    )
    with pytest.raises(UserError, match=r"lm_head\.weight is not transformer\.wte"):
        read(tmp_path / "out")


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


def test_a_model_without_its_heads_embeds_and_fills_nothing(tmp_path):
    export(tmp_path / "out", "bert")
    edit(
        tmp_path / "out",
        lambda tensors: {n: t for n, t in tensors.items() if "cls." not in n},
    )
    model = jaxlm.load(tmp_path / "out")
    assert "mlm" not in model.params and "nsp" not in model.params
    assert model.embed(["It was a truth."]).shape == (1, 16)
    out = model.forward([[2, 7, 3]])
    assert out.logits is None and out.pooled.shape == (1, 16)
    with pytest.raises(UserError, match="has no head of masked words"):
        model.fill("It was a [MASK].")


def test_tensors_that_do_not_fit_are_named_from_both_sides(tmp_path):
    export(tmp_path / "out", "bert")

    def change(tensors):
        tensors["classifier.weight"] = np.zeros((2, 16), np.float32)
        name = "bert.encoder.layer.1.output.dense.weight"
        tensors[name] = tensors[name].T.copy()
        tensors.pop("bert.embeddings.LayerNorm.bias")

    edit(tmp_path / "out", change)
    with pytest.raises(UserError) as error:
        read(tmp_path / "out")
    _, *lines = str(error.value).split("\n")
    assert lines == [
        "  - embeddings.LayerNorm.bias  [16]  (embed/norm/bias) is not in the file",
        "  ≠ encoder.layer.1.output.dense.weight  [24, 16] in the file, [16, 24] by "
        "its config  (layers/mlp/wo/kernel[1])",
        "  + classifier.weight  [2, 16] has no use",
        r"  jaxlm import --ignore 'classifier.*' leaves tensors out",
    ]


def test_tensors_may_be_ignored_by_name_alone(tmp_path):
    params = export(tmp_path / "out", "bert")
    edit(
        tmp_path / "out",
        lambda t: t.update({"classifier.weight": np.zeros((2, 16), np.float32)}),
    )
    here, out = tmp_path / "out", tmp_path / "in"
    _, notes = noted(import_model, here, out, ignore=(r"classifier.*",))
    assert notes == ("tensors ignored as asked: classifier.weight",)
    same(read(tmp_path / "in").params, params)


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
    same(_import(out, tmp_path / "in", out, pickle=True).params, params)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "distilbert"}, "'distilbert' is not read: did you mean bert"),
        ({"model_type": "gpt_neo"}, "did you mean gpt2"),
        ({"model_type": None, "architectures": None}, "names no model_type"),
        ({"num_hidden_layers": 3}, r"- encoder\.layer\.2\.attention\.output"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide' is not a positive integer"),
        ({"hidden_act": "silu"}, "hidden_act = 'silu' is none of"),
        (
            {"position_embedding_type": "relative_key"},
            'position_embedding_type = "relative_key" is not supported: jaxlm has',
        ),
        ({"use_task_id": True}, "use_task_id = true is not supported"),
        ({"vocab_size": 151}, r"≠ .*word_embeddings.* \[150, 16\] in the file, \[151"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(change, message, tmp_path):
    export(tmp_path / "out", "bert")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        import_model(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "in").exists()


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
