"""Files on disk to batches: annotations, captions, attribute chunks, images and loaders. Knows no model."""
