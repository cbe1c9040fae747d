"""The training loop and its parts: optimiser, state, step, log."""
