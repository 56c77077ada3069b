"""Retrieval, re-ranking, measures, reports and comparisons."""
