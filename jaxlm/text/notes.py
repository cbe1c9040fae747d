"""The notes of a corpus: a line on each thing that a user may not have meant."""

from collections.abc import Iterator, Mapping, Sequence

from jaxlm.text import units
from jaxlm.text.documents import read_fragments
from jaxlm.text.recipe import Recipe
from jaxlm.text.sources import Source
from jaxlm.text.spans.finders import Lexicon
from jaxlm.text.texts import converter, primary
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import some

_MANY_UNKNOWN = 0.1  # of the words
_WITH_IDEOGRAPHS = ("zh", "ja", "yue", "wuu", "lzh", "gan", "hak")

Counts = Mapping[str, int]


def notes(
    counts: Counts,
    tokenizer: Tokenizer,
    recipe: Recipe,
    sources: Sequence[Source],
    lexicon: Lexicon | None,
) -> Iterator[str]:
    """The notes of a corpus; `counts` are those of all its units."""
    yield from _of_vocabulary(counts, tokenizer, recipe)
    yield from _of_text(counts, tokenizer, recipe, sources)
    yield from _of_spans(counts, recipe)
    if lexicon:
        yield from lexicon.notes
        yield from _of_lexicon(counts, recipe, lexicon)
    held_out, documents = counts["held_out"], counts["documents"]
    if recipe.holdout and held_out < 2:
        remedy = "a larger --holdout" if documents > 2 else "more documents"
        this = f"{held_out:,} of {documents:,} documents are held out by --holdout "
        this += f"{recipe.holdout:g}, and evaluations may need 2"
        yield f"{this}: prepare with {remedy}"


def _of_vocabulary(
    counts: Counts, tokenizer: Tokenizer, recipe: Recipe
) -> Iterator[str]:
    found = tokenizer.training or {}
    if unused := found.get("unused"):
        which = f"{unused:,} of {tokenizer.vocab_size:,} entries of the vocabulary"
        remedy = "the text yields no more; a smaller model.vocab_size would do"
        yield f"{which} are [unusedN]: {remedy}"
    if left_out := found.get("characters_left_out"):
        which = f"{left_out:,} of {found['characters']:,} characters"
        share = f"{found['words_unknown'] / found['words']:.2%} of words [UNK]"
        yield f"{which} are not in the vocabulary, {share}: raise model.vocab_size"
    unknown = counts["words_unknown"] / max(counts["words"], 1)
    # An ELMo reads words outside its vocabulary, too.
    if recipe.given and unknown > (0.5 if tokenizer.keeps_oov_words else _MANY_UNKNOWN):
        remedy = "is it of this language, script and case?"
        yield f"{unknown:.1%} of the words are unknown to the vocabulary: {remedy}"


def _of_text(
    counts: Counts, tokenizer: Tokenizer, recipe: Recipe, sources: Sequence[Source]
) -> Iterator[str]:
    if replaced := counts["replaced"]:
        yield f"{replaced:,} byte sequences that are not UTF-8 were replaced"
    if empty := [each.name for each in sources if not any(read_fragments(each))]:
        yield f"{len(empty):,} of {len(sources):,} sources are empty: {some(empty)}"
    for language in recipe.languages:
        ideographs = 3 * counts[f"{units.IDEOGRAPHS}{language}"]
        share = ideographs / max(counts[f"{units.BYTES}{language}"], 1)
        chinese = primary(language) in _WITH_IDEOGRAPHS
        if (share < 0.05) if chinese else (share > 0.5):
            this = f"{share:.0%} of the text in the language {language}"
            remedy = "is that its language? --text zh:PATH names another"
            yield f"{this} are Chinese characters: {remedy}"
    mean = counts["sentences"] / counts["documents"]
    # GPT-1's words leave no line ends to tell lines by.
    if mean < 1.5 and tokenizer.kind != "gpt1_bpe":
        what = "a blank line separates documents, not sentences"
        yield f"a document has {mean:.1f} sentences on average: {what}"


def _of_spans(counts: Counts, recipe: Recipe) -> Iterator[str]:
    spans = counts["spans"]
    if dropped := counts["spans_dropped"]:
        why = "they lie across words of the vocabulary, or hold none"
        kept = f"{spans:,} phrases and entities kept"
        yield f"{dropped:,} spans were dropped: {why}; {kept}"
    if recipe.marks_spans and not spans:
        yield "no phrase and no entity was found: is the text in the right script?"


def _of_lexicon(counts: Counts, recipe: Recipe, lexicon: Lexicon) -> Iterator[str]:
    absent = [each for each in lexicon.entries if not counts[units.ENTRY + each]]
    if not absent:
        return
    reason = "case and script must be those of the text"
    if recipe.chinese != "as_is":
        convert = converter(recipe.chinese)
        others = sum(convert(each) != each for each in absent)
        reason = f"{others:,} of them are not in {recipe.chinese} Chinese, as the text"
    which = f"lexicon: {len(absent):,} of {len(lexicon.entries):,} entries"
    yield f"{which} are nowhere in the text ({reason}): {some(absent)}"
