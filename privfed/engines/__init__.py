"""How bytes reach the clients. `LocalFederation` runs them all in this process."""

from privfed.engines.faults import Dropout
from privfed.engines.local import LocalFederation

__all__ = ["Dropout", "LocalFederation"]
