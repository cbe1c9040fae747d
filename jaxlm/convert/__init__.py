"""Weights of other frameworks: what a family is called and how it lies in a file."""
