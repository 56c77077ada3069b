"""SynthPedes: drawn pedestrians with captions, in the format of the three benchmarks."""
