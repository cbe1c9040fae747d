"""Jitted, keyed per row, shapes static: rows as read in, examples to train on out."""
