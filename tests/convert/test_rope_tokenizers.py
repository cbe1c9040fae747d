"""The tokenizers of ModernBERT and RoFormer, as other programs write them."""

import json

import pytest
from exported import SENTENCES, export, modernbert_tokenizer

import jaxlm
from jaxlm.convert.model_directory import import_model
from jaxlm.types import UserError


def modern_files(directory):
    """ModernBERT's files by transformers, with a tokenizer of the same parts."""
    import transformers

    library = modernbert_tokenizer(SENTENCES * 9, 400)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    names |= {"mask_token": "[MASK]", "unk_token": "[UNK]"}
    ids = {f"{each}_id": library.token_to_id(names[each]) for each in names}
    ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    config = transformers.ModernBertConfig(
        vocab_size=400,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=96,
        local_attention=8,
        **ids,
    )
    transformers.ModernBertForMaskedLM(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_text(library.to_str())
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 96}
    said |= {"model_input_names": ["input_ids", "attention_mask"], **names}
    said["clean_up_tokenization_spaces"] = True
    (directory / "tokenizer_config.json").write_text(json.dumps(said))
    return library


@pytest.mark.oracle
def test_modernberts_files_come_in_with_its_ids_and_words(tmp_path, capsys):
    from jaxlm.cli import main

    library = modern_files(tmp_path / "theirs")
    words = ["import", str(tmp_path / "theirs"), "--out", str(tmp_path / "in")]
    assert main([*words, "--verify"]) == 0
    assert "parity" in capsys.readouterr().out
    model = jaxlm.load(tmp_path / "in")
    ours = model.tokenizer
    assert json.loads((tmp_path / "in/tokenizer.json").read_text()) == json.loads(
        library.to_str()
    )
    text = "It was  a truth, wasn't it?\n\n Nobody |||EMAIL_ADDRESS||| acknowledged."
    found = ours.encode(text)
    assert found.ids.tolist() == library.encode(text, add_special_tokens=False).ids
    tokens = [ours.token(i) for i in found.ids]
    starts = [t for t, start in zip(tokens, found.word_start, strict=True) if start]
    # Words begin with the byte-level sign of a space, or where it cuts text.
    assert starts[:6] == ["It", "Ġwas", "  ", "a", "Ġtruth", ","]
    assert "|||EMAIL_ADDRESS|||" in starts
    spaced = [
        start for t, start in zip(tokens, found.word_start, strict=True) if t[:1] == "Ġ"
    ]
    assert all(spaced)
    guesses = model.fill("It was a [MASK].")[0]
    assert len(guesses) == 5
    assert model.embed(["It was.", "She was out of the house."]).shape == (2, 24)


@pytest.mark.parametrize("said", [{"tokenizer_class": "RoFormerTokenizerFast"}, {}])
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_words_by_jieba_are_refused(said, file, tmp_path):
    """RoFormer's own tokenizer; what it saves as tokenizer.json is another one."""
    out = tmp_path / "out"
    export(out, "roformer")
    for name in {"jaxlm_tokenizer.json", "tokenizer.json", "vocab.txt"} - {file}:
        (out / name).unlink()
    (out / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="RoFormerTokenizer cuts Chinese by jieba"):
        import_model(out, tmp_path / "in")
    assert not (tmp_path / "in").exists()
