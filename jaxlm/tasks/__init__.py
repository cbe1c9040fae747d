"""What a pretrained model is used for: files with labels → figures, predictions."""
