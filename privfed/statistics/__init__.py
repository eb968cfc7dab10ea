"""Queries: what a client computes from its rows, each with bounds that hold for any row."""
