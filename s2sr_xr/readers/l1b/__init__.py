"""L1B products as a tree of detectors."""
