"""What a training step will need and do on a machine that is not here."""
