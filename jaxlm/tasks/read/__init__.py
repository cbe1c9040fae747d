"""Files of examples: tables, CoNLL columns, SQuAD."""
