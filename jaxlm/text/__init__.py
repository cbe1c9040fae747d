"""Text → documents → tokens → a corpus on disk. Never imports jax."""
