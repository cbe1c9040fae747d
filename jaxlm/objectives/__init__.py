"""What a family is trained on: host rows → batch → sums, by a key per row."""
