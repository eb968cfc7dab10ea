"""Neural networks of torch, trained through the one door."""

from privfed.learners.neural.averaging.compression import Compression
from privfed.learners.neural.averaging.learner import FederatedAveraging
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    SavedRun,
    load_checkpoint,
    resume,
)
from privfed.learners.neural.checkpoints.stored_memory import StoredMemory
from privfed.learners.neural.evaluation.early_stopping import EarlyStopping
from privfed.learners.neural.evaluation.evaluation import Evaluation, evaluate
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.progress import Progress
from privfed.learners.neural.refusals import refuse_unsuitable
from privfed.learners.neural.state import Callback, TrainingState, Verdict
from privfed.learners.neural.wavelets import n_scattering_channels, scattering
from privfed.statistics.hold_out import HoldOut

__all__ = [
    "Anchor",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Compression",
    "EarlyStopping",
    "Evaluation",
    "FederatedAveraging",
    "FederatedSGD",
    "HoldOut",
    "Progress",
    "SavedRun",
    "StoredMemory",
    "TorchProgram",
    "TrainingState",
    "Verdict",
    "evaluate",
    "load_checkpoint",
    "n_scattering_channels",
    "refuse_unsuitable",
    "resume",
    "scattering",
]
