"""The training objectives: host rows → batch → sums, with a random key per row."""
