"""From a scene to finer pixels: blocks, networks, Dask graphs."""
