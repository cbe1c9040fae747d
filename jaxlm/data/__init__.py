"""A corpus → rows by position → arrays on the devices that hold them."""
