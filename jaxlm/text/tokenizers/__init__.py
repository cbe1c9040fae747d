"""Tokenizers behind one interface: trained from text, or loaded from anyone's files."""

from jaxlm.text.tokenizers.bpe import ByteBpe, Gpt1Bpe
from jaxlm.text.tokenizers.loading import load_tokenizer
from jaxlm.text.tokenizers.sentencepiece import SentencePiece
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.text.tokenizers.training import train_tokenizer
from jaxlm.text.tokenizers.word_vocab import WordVocab
from jaxlm.text.tokenizers.wordpiece import WordPiece

__all__ = [
    "ByteBpe",
    "Gpt1Bpe",
    "SentencePiece",
    "Tokenizer",
    "WordPiece",
    "WordVocab",
    "load_tokenizer",
    "train_tokenizer",
]
