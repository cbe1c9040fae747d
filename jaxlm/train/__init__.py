"""The one training loop and what it stands on: optimiser, state, step, log."""
