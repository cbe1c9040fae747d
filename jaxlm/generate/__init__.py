"""Prompts → continuations of a decoder: sampled, greedy or by beam search."""
