"""What layers know: word senses, and what a probe can read off frozen states."""

from typing import Literal

Label = Literal["upos", "xpos", "deps", "chunks", "entities", "json", "srl", "coref"]
