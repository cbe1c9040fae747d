"""Tokens → hidden states and logits, a file a family."""
