"""The index on disk: its manifest, its segments of rows, one reader and one writer. Imports no torch.

An *index* is the folder; a *segment* is a folder within it that holds some of its rows; a row is one image.
"""
