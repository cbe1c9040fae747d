"""A Wikipedia's dump → articles of plain paragraphs, for `wiki:PATH.xml.bz2`.

An article is the newest revision of a page in namespace 0 that is not a redirect. Only
its paragraphs are kept, one a line, without markup: titles, headings, lists, tables,
templates, references, formulas, files and categories are dropped.
"""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from typing import Any

from jaxlm.config.checks import optional
from jaxlm.text.sources import Record, Source, open_source
from jaxlm.types import UserError

_PACKAGE = "'jaxlm[wiki]' (or mwxml mwparserfromhell)"
_HIDDEN_TAGS = re.compile(
    "categorytree|ce|chem|dl|gallery|graph|hiero|imagemap|includeonly|inputbox|math|ol|"
    "pre|ref|references|score|section|source|style|syntaxhighlight|table|templatedata|"
    "timeline|ul"
)
_BREAKS = re.compile("blockquote|br|center|div|hr|p|poem")
_MEDIA = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|og[agv]|web[mp]|pdf|djvu|mp3)\s*\Z", re.I
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")  # links to other Wikipedias
_ITEM = "\0"  # begins the line of an item of a list
_NO_PARAGRAPH = (_ITEM, "|", "{|", "{{", "}}")
# Chinese variants: -{zh-hans:计算机;zh-hant:電腦}-, with flags before a "|".
_VARIANTS = re.compile(r"-\{(?:([^{}|]*)\|)?([^{}]*)\}-")
# Traces of removed templates and references → their replacements.
_TRACES = (
    (re.compile(r"__[A-Z]+__|'{2,}|</?[A-Za-z][^<>]*>"), ""),
    (re.compile(r"([(（])[\s,;:，；：、]+"), r"\1"),
    (re.compile(r"\(\)|（）"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r" +([,.)])"), r"\1"),
)


def read_articles(source: Source, start: int) -> Iterator[Record]:
    """The wikitext of each article of a dump, from article `start` on."""
    mwxml, number = _mwxml(source.name), 0
    with open_source(source) as (unpacked, packed), _damage(source.name):
        root = mwxml.element_iterator.ElementIterator.from_file(unpacked)
        for page in mwxml.Dump.from_element(root).pages:
            root.element.clear()  # it would keep an empty element for each page
            if page.namespace or page.redirect is not None:
                continue
            if number >= start:
                text = ""
                for revision in page:
                    text = revision.text or ""
                yield number, text.encode(), packed.tell()
            number += 1


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Say in one line that a dump is damaged: its reader has errors of many kinds."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{name} is not a complete dump of a Wikipedia: {error}"
        ) from None


def _mwxml(name: str) -> Any:
    with warnings.catch_warnings():  # Python warns of its docstrings' escapes
        warnings.simplefilter("ignore")
        optional("mwxml.element_iterator", name, _PACKAGE)
        return optional("mwxml", name, _PACKAGE)


@functools.cache
def _namespaces(dump: str) -> frozenset[str]:
    """The names of all namespaces except that of articles, in lower case."""
    mwxml = _mwxml(dump)
    with open_source(Source(dump, "wiki", (dump,))) as (unpacked, _), _damage(dump):
        found = mwxml.Dump.from_file(unpacked).site_info.namespaces or ()
    names = {str(each.name).lower() for each in found}
    return frozenset(names - {""} | {"file", "image", "media", "category"})


def plain_text(wikitext: str, dump: str) -> str:
    """The plain text of an article: one paragraph a line."""
    parse = optional("mwparserfromhell", dump, _PACKAGE).parse
    text = "".join(_visible(parse(wikitext), _namespaces(dump)))
    paragraphs = []
    for line in _VARIANTS.sub(_first_variant, text).split("\n"):
        for trace, replacement in _TRACES:
            line = trace.sub(replacement, line)
        line = line.strip()
        if not line.startswith(_NO_PARAGRAPH) and any(map(str.isalnum, line)):
            paragraphs.append(line)
    return "\n".join(paragraphs)


def _visible(code: Any, namespaces: frozenset[str]) -> Iterator[str]:
    """The text that a reader of the page sees, without that of templates."""
    for node in code.nodes:
        match type(node).__name__:
            case "Text":
                yield node.value
            case "HTMLEntity":
                yield node.normalize()
            case "Heading":
                yield "\n"
            case "ExternalLink" if node.title is not None:
                yield from _visible(node.title, namespaces)
            case "Wikilink":
                title = str(node.title)
                space = title.partition(":")[0].strip() if ":" in title else ""
                other = node.text is None and _LANGUAGE.fullmatch(space)
                if not (space.lower() in namespaces or other or _MEDIA.search(title)):
                    shown = _visible(node.text or node.title, namespaces)
                    yield "".join(shown).removeprefix(":")
            case "Tag":
                tag = str(node.tag).strip().lower()
                if tag in ("li", "dt", "dd"):
                    yield _ITEM
                elif not _HIDDEN_TAGS.fullmatch(tag):
                    edge = "\n" if _BREAKS.fullmatch(tag) else ""
                    yield edge
                    if node.contents:
                        yield from _visible(node.contents, namespaces)
                    yield edge


def _first_variant(found: re.Match) -> str:
    flags, content = found.groups()
    if flags and set(flags) & set("HTD-"):  # rules, which are not shown
        return ""
    first = content.partition(";")[0]
    return first.partition(":")[2] if first.strip().startswith("zh") else first
