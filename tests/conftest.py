"""Settings that hold for every test.

Hypothesis draws the same cases in every run, so that a stranger's first `make test` is not a lottery; to look for new
ones, `make test ARGS=--hypothesis-profile=search`. No deadline: a loaded machine is not a bug.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("same-cases", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("same-cases")
