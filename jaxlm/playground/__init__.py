"""A loaded model → a page on this machine's own address, to try it by hand."""
