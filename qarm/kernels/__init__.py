"""Everything that numba compiles: arrays in, arrays out. See README.md in this folder."""
