"""Fine-tuning: a pretrained model and labelled files → figures and predictions."""
