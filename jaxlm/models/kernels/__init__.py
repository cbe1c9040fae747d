"""Custom gradients and choices by platform, each beside a short plain reference."""
