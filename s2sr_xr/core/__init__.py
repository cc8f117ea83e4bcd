"""What all rooms agree on: bands, cells, grids, radiometry, no-data."""
