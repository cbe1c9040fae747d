"""Run directories → one page: curves, samples, configuration, provenance, digests."""
