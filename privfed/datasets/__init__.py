"""Data at hand: loaders that download nothing, and splits into silos that differ."""
