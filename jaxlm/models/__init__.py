"""Flax Linen modules, a file a family; they know nothing of data, losses or meshes."""
