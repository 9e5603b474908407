"""Gene vocabulary: keys of a table's columns, identifiers and names."""
