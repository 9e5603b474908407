"""A store in the layouts of others: tiles for training, files for other tools."""
