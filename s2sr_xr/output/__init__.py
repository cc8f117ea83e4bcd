"""From a result to files: Zarr, COG, STAC."""
