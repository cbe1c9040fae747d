"""A small file is written whole or not at all, and is read as it was written."""

import random

import pytest

from jaxlm.files import (
    DamagedError,
    read_json,
    read_sealed,
    replacing,
    seal,
    unseal,
    write_file,
    write_json,
)


def flipped(data: bytes, bit: int) -> bytes:
    harmed = bytearray(data)
    harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, "é"]})
    assert path.read_text(encoding="utf-8") == '{\n  "a": [\n    1,\n    "é"\n  ]\n}\n'
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "new ", "\udc80")
    assert read_json(path) == {"a": [1, "é"]}
    assert list(tmp_path.iterdir()) == [path]
    write_json(path, {"argv": "\udc80"})  # a word of a command that is not UTF-8
    assert read_json(path) == {"argv": "\udc80"}


def test_a_flip_in_sealed_json_is_seen_or_changes_nothing(tmp_path):
    path, content = tmp_path / "a.json", {"rate": 1e-4, "names": ["a", "b"], "n": 17}
    write_json(path, seal(content))
    sound = path.read_bytes()
    assert unseal(read_json(path), path) == content
    unseen = 0
    for bit in range(8 * len(sound)):
        path.write_bytes(flipped(sound, bit))
        try:
            found = unseal(read_json(path), path)
        except DamagedError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            continue
        # White space, or the name of the digest, which no reader of fields knows.
        assert {name: found[name] for name in content} == content
        unseen += 1
    assert unseen < 0.2 * 8 * len(sound)
    write_json(path, content)  # by an older version
    assert unseal(read_json(path), path) == content


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a"', "[" * 100_000, '{"a": "\xff'])
def test_no_torn_json_is_a_traceback(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"a\.json"):
        read_json(path)
    with pytest.raises(DamagedError, match="gone"):
        read_json(tmp_path / "gone")


def test_every_flip_cut_and_rename_of_sealed_bytes_is_seen(tmp_path):
    path, draw = tmp_path / "plan", random.Random(0)
    content = draw.randbytes(1000)
    with replacing(path, sealed=True) as file:
        file.write(content)
    sound = path.read_bytes()
    assert bytes(read_sealed(path)) == content
    for trial in range(300):
        harmed = flipped(sound, draw.randrange(8 * len(sound)))
        path.write_bytes(harmed if trial % 2 else sound[: draw.randrange(len(sound))])
        with pytest.raises(DamagedError):
            read_sealed(path)
    path.write_bytes(sound)
    with pytest.raises(DamagedError):
        read_sealed(path.rename(tmp_path / "other"))
