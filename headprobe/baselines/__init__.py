"""The other systems of the field as methods of the benchmark, one file each; they are loaded by name when asked for."""
