"""What layers know: word senses, and what a probe can read off frozen states."""
