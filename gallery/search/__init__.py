"""Answering a query: an engine finds the nearest vectors, then the matching head orders the best of them.

An *engine* finds vectors: FAISS over the index itself, or Milvus over a copy of its vectors, which Milvus calls a
*collection*.
"""
