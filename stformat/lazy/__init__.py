"""A store as xarray sees it: one Dataset of tiles and expression, one DataTree of image levels."""
