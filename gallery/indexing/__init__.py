"""Making and changing an index: find the pictures of a folder, compare them with the index, encode what is new."""
