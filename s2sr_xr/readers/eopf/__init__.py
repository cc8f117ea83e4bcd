"""EOPF Zarr products as a tree."""
