"""Tokenizers with one interface: trained on text, or loaded from files of any maker."""

from jaxlm.text.tokenizers.loading import load_tokenizer
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.text.tokenizers.training import train_tokenizer
from jaxlm.text.tokenizers.words import WordPiece
