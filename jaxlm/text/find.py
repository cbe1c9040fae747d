"""Paths, globs and dataset names → sources of text."""

import collections
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxlm.config.checks import instead, meant
from jaxlm.files import bucket_files, is_remote, place
from jaxlm.text.sources import (
    COMPRESSED,
    SHIPPED,
    TFDS,
    Source,
    explained,
    record_files,
)
from jaxlm.types import UserError, note, plural, some

WIKI = "wiki:"
_FORMS = "*.txt, *.jsonl, *.csv (also .gz .xz .zst .bz2), *.parquet"
_PACKED = rf"(?:{'|'.join(map(re.escape, COMPRESSED))})?\Z"
_TEXT_FILE = re.compile(rf"\.(txt|jsonl){_PACKED}")
_LINE_FILE = re.compile(rf"\.txt{_PACKED}")
_TABLE_FILE = re.compile(rf"\.(?:(csv){_PACKED}|(parquet)\Z)")
_DUMP_FILE = re.compile(rf"\.xml{_PACKED}")
_LIKE_TEXT = re.compile(r"\.(txt|text|jsonl|csv|tsv|parquet|xml)(\.\w+)?\Z", re.I)
_VOCABULARIES = ("vocab.txt", "merges.txt")  # of a corpus in a directory of text
# ISO 639 with subtags of BCP 47: longer than the letter of a drive, shorter than "tfds"
# and with no "//" behind, as in "gs://".
_LABELLED = re.compile(r"([a-z]{2,3}(?:-[A-Za-z0-9]{1,8})*):(?!//)(.+)", re.DOTALL)
_LIKE_A_LABEL = re.compile(r"[A-Za-z][\w-]+:(?!//)")


def labelled(spec: str) -> tuple[str, str]:
    """(language, path) of a labelled path like `en:books`; ("", spec) if unlabelled.

    A file whose own name looks labelled can be given as a path, `./en:notes.txt`.
    """
    found = _LABELLED.fullmatch(spec)
    return (found[1], found[2]) if found else ("", spec)


def find_sources(
    specs: Sequence[str], annotated: str = "", field: str = "text"
) -> list[Source]:
    """The sources that `specs` name, in order, grouped by language.

    Args:
        specs: paths, globs, directories (their files are sorted by path), all of which
            may be on `gs://`, `shipped:NAME`, `tfds:…` or `wiki:…`; each may be
            labelled, `fr:…`.
        annotated: the format of annotated text, whose files may have any name; or "".
        field: name of the field or column that holds the text.
    """
    found = [source for spec in specs for source in _sources(spec, annotated, field)]
    if not found:
        raise UserError("no text given: name files, globs, directories, shipped:austen")
    name, times = collections.Counter(s.name for s in found).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name} is named {times} times")
    languages = list(dict.fromkeys(source.language for source in found))
    if len(languages) > 1 and "" in languages:
        bare = next(source.name for source in found if not source.language)
        named = next(source for source in found if source.language)
        raise UserError(
            f"{named.name} is labelled {named.language}, {bare} has no language: label "
            "all of the text (--text en:PATH zh:PATH) or none"
        )
    return sorted(found, key=lambda source: languages.index(source.language))


def line_files(paths: Sequence[str]) -> list[str]:
    """The files of paths, globs and directories with a text in each line, *.txt."""
    return [each for path in paths for each in sorted(_paths(path, [_LINE_FILE]))]


def _sources(spec: str, annotated: str, field: str) -> list[Source]:
    language, path = labelled(spec)
    if annotated and path.startswith((TFDS, WIKI, "shipped:")):
        raise UserError(f"{path} is not annotated as {annotated}")
    if path.startswith(TFDS):
        found = [(path, "tfds", tuple(record_files(path, fields=(field,))))]
    elif path.startswith("shipped:"):
        files = sorted(SHIPPED.glob("*.txt.xz"))
        shipped = {file.name.partition(".")[0]: str(file) for file in files}
        name = path.removeprefix("shipped:")
        if name not in shipped:
            raise UserError(f"no corpus {path!r}: {instead(name, shipped)}")
        found = [(path, "txt", (shipped[name],))]
    else:
        kinds = [_TEXT_FILE, _TABLE_FILE]  # see `_paths`
        if path.startswith(WIKI):
            annotated, kinds, path = "wiki", [_DUMP_FILE], path.removeprefix(WIKI)
        paths = sorted(_paths(path, kinds))
        found = [(each, annotated or _kind(each), (each,)) for each in paths]
    return [Source(*each, language, field=field) for each in found]


def _paths(path: str, kinds: Sequence[re.Pattern]) -> list[str]:
    """The files of a path, a glob or a directory; UserError if there are none.

    Of a directory, only files of the first kind that occurs in it are taken.
    """
    hint = "; a language is labelled by its code in lower case, en:PATH"
    hint *= bool(_LIKE_A_LABEL.match(path))
    if is_remote(path):
        path = str(place(path))
        with explained(path):
            files = bucket_files()
            is_glob = glob.has_magic(path)
            below = [f"gs://{x}" for x in (files.glob if is_glob else files.find)(path)]
        found = below if is_glob or below == [path] else _of_one_kind(below, kinds)
    elif "://" in path:
        raise UserError(f"{path}: of remote files, only gs:// is read: download it")
    elif os.path.isdir(path):
        every = [*Path(path).rglob("*")]
        below = [str(each) for each in every if each.is_file()]
        found = _of_one_kind(below, kinds)
        _note_others(path, every, {*found})
        hint = f", a directory with {len(below)} other files; text is in {_FORMS}"
    elif os.path.exists(path):
        found = [path]
    else:
        found = list(filter(os.path.isfile, glob.glob(path, recursive=True)))
        parent = os.path.dirname(path)
        beside = os.listdir(parent or ".") if os.path.isdir(parent or ".") else []
        near = meant(path, [os.path.join(parent, each) for each in beside])
        if glob.has_magic(path):
            hint = hint or "; ** stands for any folders"
        elif near:
            hint = f": {near}"
        elif not hint:
            hint = ", there is no such file or directory"
    if not found:
        raise UserError(f"no text file matches {path!r}{hint}")
    return found


def _note_others(path: str, every: list[Path], found: set[str]) -> None:
    """Note what a directory has that is not read, if it looks like text or is a link
    to nothing or to a directory."""
    others = [
        str(each.relative_to(path))
        for each in every
        if str(each) not in found
        and each.name not in _VOCABULARIES
        and (_LIKE_TEXT.search(each.name) if each.is_file() else each.is_symlink())
    ]
    if found and others:
        this = f"{path}: {plural(len(found), 'file')} of one kind taken as text"
        note(f"{this}, not {some(sorted(others))}: name also what is left out")


def _of_one_kind(paths: list[str], kinds: Sequence[re.Pattern]) -> list[str]:
    paths = [each for each in paths if os.path.basename(each) not in _VOCABULARIES]
    of_kinds = (list(filter(kind.search, paths)) for kind in kinds)
    return next(filter(None, of_kinds), [])


def _kind(path: str) -> str:
    if found := _TEXT_FILE.search(path) or _TABLE_FILE.search(path):
        return next(filter(None, found.groups()))
    dump = f"; a Wikipedia's dump is named {WIKI}{path}" * (".xml" in path)
    raise UserError(f"{path} is none of {_FORMS}{dump}")
