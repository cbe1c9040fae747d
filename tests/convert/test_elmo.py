"""The original's files give the original's outputs; others are refused by name."""

import json
import shutil

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import same
from sentences import sentence_characters

import jaxlm
from jaxlm.convert.elmo import open_elmo, read_options
from jaxlm.convert.hdf5 import read_hdf5
from jaxlm.convert.model_directory import (
    export_model,
    from_params,
    import_model,
    read_model,
)
from jaxlm.models.elmo import Elmo, zero_state
from jaxlm.text.characters import word_characters
from jaxlm.tree import leaves
from jaxlm.types import UserError

pytestmark = pytest.mark.shared
LANES, SENTENCES = 3, 10


@pytest.fixture
def fixture(shared):
    """What allenai/bilm-tf's own test compares: weights, text, TensorFlow's outputs."""
    return shared / "elmo_fixture" / "allennlp"


def read_elmo(options, weights, place=lambda _, array: jnp.asarray(array)):
    """(config, parameters)."""
    with open_elmo(options, weights) as source:
        return source.config, source.params(place)


@pytest.fixture
def model(fixture):
    config, params = read_elmo(fixture / "options.json", fixture / "lm_weights.hdf5")
    module = Elmo(config)

    @jax.jit
    def encode(characters, mask, state):
        lengths = None if mask is None else mask.sum(1)
        return module.apply(
            {"params": params}, characters, state, lengths=lengths, logits=False
        )

    return config, params, encode


def batches(fixture):
    """Sentence i of each lane, which TensorFlow read after the lane's sentence i - 1,
    and what it then made of the top layer, [words, both directions]."""
    lanes = json.loads((fixture / "sentences.json").read_text())
    wanted = [h5py.File(fixture / f"lm_embeddings_{k}.hdf5") for k in range(LANES)]
    for i in range(SENTENCES):
        yield (
            [lane[i].split() for lane in lanes],
            [np.concatenate(file[str(i)][:], axis=-1) for file in wanted],
        )


def padded(sentences, length=64):
    """As `sentence_characters`, in one length for one compilation."""
    ids, mask = sentence_characters(sentences)
    more = ((0, 0), (0, length - ids.shape[1]))
    return np.pad(ids, (*more, (0, 0))), np.pad(mask, more)


def test_states_carried_from_batch_to_batch_give_tensorflows_outputs(fixture, model):
    config, _, encode = model
    # A fourth lane that nobody reads, as in the original's test.
    state = zero_state(config, LANES + 1)
    worst = 0.0
    for sentences, wanted in batches(fixture):
        out = encode(*padded(sentences), state)
        state = out.carry
        for lane, want in enumerate(wanted):
            got = np.asarray(out.hidden[-1, lane, 1 : 1 + len(want)])
            worst = max(worst, np.abs(got - want).max())
    assert worst < 1e-5, worst
    assert not np.asarray(state.cell[LANES]).any()
    assert not np.asarray(state.out[LANES]).any()
    assert np.abs(state.cell[:LANES]).max(axis=(1, 2, 3)).min() > 0


def test_without_its_state_a_second_batch_comes_out_otherwise(fixture, model):
    _, _, encode = model
    sentences, wanted = list(batches(fixture))[1]
    out = encode(*padded(sentences), None)
    got = np.asarray(out.hidden[-1, 0, 1 : 1 + len(wanted[0])])
    assert np.abs(got - wanted[0]).max() > 0.1


def test_vectors_of_words_are_those_of_the_vocabulary_file(fixture, model):
    _, _, encode = model
    words = (fixture / "vocab_test.txt").read_text().split("\n")[:458]
    out = encode(word_characters(words)[None], None, None)
    with h5py.File(fixture / "elmo_token_embeddings.hdf5") as file:
        wanted = file["embedding"][:]
    assert len(wanted) == len(words)
    np.testing.assert_allclose(out.hidden[0, 0, :, :16], wanted, atol=1e-5)
    np.testing.assert_array_equal(out.hidden[0, 0, :, :16], out.hidden[0, 0, :, 16:])


def test_every_parameter_is_read_and_placed(fixture, model):
    config, params, _ = model
    module = Elmo(config)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), *module.example())["params"]
    )
    got = [(path, leaf.shape, leaf.dtype) for path, leaf in leaves(params)]
    assert got == [(path, leaf.shape, leaf.dtype) for path, leaf in leaves(shapes)]
    placed = {}
    place = lambda path, array: placed.setdefault(path, jnp.asarray(array))  # noqa: E731
    files = fixture / "options.json", fixture / "lm_weights.hdf5"
    _, again = read_elmo(*files, place)
    assert dict(leaves(again)) == placed


def edited(fixture, tmp_path, change):
    options = json.loads((fixture / "options.json").read_text())
    change(options)
    path = tmp_path / "options.json"
    path.write_text(json.dumps(options))
    return path


def test_options_of_training_read_the_same_weights(fixture, tmp_path):
    options = edited(
        fixture, tmp_path, lambda o: o["char_cnn"].update(n_characters=261)
    )
    assert read_options(options) == read_options(fixture / "options.json")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o: o["char_cnn"].update(n_characters=263), "n_characters = 263, it is"),
        (lambda o: o["lstm"].pop("dim"), "has no option 'dim'"),
        (lambda o: o.pop("char_cnn"), "has no option 'char_cnn'"),
        (lambda o: o["char_cnn"].update(activation="gelu"), "activation = 'gelu' is"),
        (lambda o: o["lstm"].update(dim=16), "lstm.dim = 16, projection_dim = 16"),
        (lambda o: o["char_cnn"].update(filters=[[2, 4], [1, 4]]), "widths \\[2, 1\\]"),
        (lambda o: o.update(lstm=[]), "cannot be read as options"),
        (lambda o: o["lstm"].update(n_layers="two"), "'two' is not a whole"),
        (lambda o: o["lstm"].update(n_layers=0), "num_layers = 0"),
    ],
)
def test_options_that_no_elmo_has_are_named(fixture, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_options(edited(fixture, tmp_path, change))


def changed(fixture, tmp_path, change):
    path = tmp_path / "weights.hdf5"
    shutil.copy(fixture / "lm_weights.hdf5", path)
    path.chmod(0o600)
    with h5py.File(path, "a") as file:
        change(file)
    return path


def grow(file):
    table = file["char_embed"][:]
    del file["char_embed"]
    file["char_embed"] = np.concatenate([table, table[:1]])


def test_weights_that_do_not_fit_are_all_named(fixture, tmp_path):
    options = edited(fixture, tmp_path, lambda o: o["lstm"].update(dim=65))
    with pytest.raises(UserError) as error:
        read_elmo(options, fixture / "lm_weights.hdf5")
    _, *lines = str(error.value).split("\n")
    assert len(lines) == 3 * 4
    bias = (
        "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B  [256] in the file, [260] by its "
        "config  (layers/bias[1][1])"
    )
    assert f"  ≠ {bias}" in lines


def test_a_missing_and_a_superfluous_array_are_named(fixture, tmp_path):
    def change(file):
        file.move("CNN_proj/b_proj", "CNN_proj/b")

    weights = changed(fixture, tmp_path, change)
    with pytest.raises(UserError) as error:
        read_elmo(fixture / "options.json", weights)
    assert "+ CNN_proj/b  [16] has no use" in str(error.value)
    wanted = "- CNN_proj/b_proj  [16]  (words/projection/bias) is not in the file"
    assert wanted in str(error.value)


def test_a_table_of_262_characters_is_a_mix_up(fixture, tmp_path):
    with pytest.raises(UserError, match="n_characters = 262, which reads every word"):
        read_elmo(fixture / "options.json", changed(fixture, tmp_path, grow))


def test_files_that_are_none_are_named(fixture, tmp_path):
    with pytest.raises(UserError, match=r"vocab_test\.txt cannot be read as HDF5"):
        read_elmo(fixture / "options.json", fixture / "vocab_test.txt")
    with pytest.raises(UserError, match=r"nothing\.json cannot be read: No such"):
        read_options(tmp_path / "nothing.json")


def test_the_files_go_in_and_out_bit_for_bit(fixture, tmp_path):
    import_model(fixture, tmp_path / "in")
    loaded = read_model(tmp_path / "in", lambda _, array: jnp.asarray(array))
    config, params = read_elmo(fixture / "options.json", fixture / "lm_weights.hdf5")
    assert loaded.config == config
    same(loaded.params, params)
    source = from_params(config, params)
    export_model(tmp_path / "out", source, loaded.tokenizer, origin={})
    with read_hdf5(fixture / "lm_weights.hdf5") as theirs:
        for each in ("in", "out"):
            with read_hdf5(tmp_path / each / "weights.hdf5") as ours:
                assert ours.keys() == theirs.keys()
                for name, array in theirs.items():
                    np.testing.assert_array_equal(ours[name], array, err_msg=name)
    was = json.loads((fixture / "options.json").read_text())
    now = json.loads((tmp_path / "out" / "options.json").read_text())
    assert now == {**was, "dropout": 0.1}


def test_an_elmo_loaded_from_its_files_embeds(fixture, tmp_path):
    import_model(fixture, tmp_path / "in")
    model = jaxlm.load(tmp_path / "in")
    first, second = model.embed(["The bank of the river .", "A bank ."], layers="all")
    assert first.shape == second.shape == (3, 32)
    with pytest.raises(UserError, match="has no softmax"):
        model.check_heads()
