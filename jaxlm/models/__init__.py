"""The models: tokens → hidden states and logits. Each family has a file."""
