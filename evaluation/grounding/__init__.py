"""Whether a model sees what a caption tells: pointing, chunk scores and re-ranking, measured on drawn pedestrians."""
