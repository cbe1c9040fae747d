"""The kinds of task: classes and numbers, choice, tags, spans."""
