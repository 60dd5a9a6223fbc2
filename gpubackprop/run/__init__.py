"""A run: from a config to a directory with everything that training left, and back from the directory to the model."""
