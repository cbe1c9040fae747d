"""Tasks without training: GPT-2's protocols, minimal pairs, lm-evaluation-harness."""
