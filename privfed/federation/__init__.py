"""The one door: `Federation.release(query) -> Release`."""

from privfed.federation.door import FederationBase
from privfed.federation.release import Federation, Release

__all__ = ["Federation", "FederationBase", "Release"]
