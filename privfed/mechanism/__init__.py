"""From a float vector to a noised integer vector: clip, encode, sample noise, and how far one unit can move it."""
