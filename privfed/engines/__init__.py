"""How bytes reach the clients. `LocalFederation` runs them all in this process."""

from privfed.engines.faults import Loss
from privfed.engines.local import LocalFederation

__all__ = ["LocalFederation", "Loss"]
