"""Host rows → training examples: jitted, with static shapes and a key per row."""
