"""Text to a pretrained ELMo, BERT, ERNIE or GPT, in one small JAX/Flax code base."""

__version__ = "0.1.0"
