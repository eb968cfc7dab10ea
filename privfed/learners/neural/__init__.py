"""Neural networks of torch, trained through the one door."""

from privfed.learners.neural.averaging import FederatedAveraging
from privfed.learners.neural.compression import Compression
from privfed.learners.neural.objective import Anchor
from privfed.learners.neural.state import Callback, TrainingState, Verdict

__all__ = ["Anchor", "Callback", "Compression", "FederatedAveraging", "TrainingState", "Verdict"]
