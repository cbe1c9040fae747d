"""Code with custom gradients or a variant per platform, beside a plain reference."""
