"""Drop-outs on purpose: which simulated client is lost when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from privfed.errors import UsageError

__all__ = ["Loss", "Lost", "Step", "check_losses"]

Step = Literal["advertise", "shares", "masked", "sign", "unmask"]

# Whether a client's message of a step never arrives.
Lost = Callable[[str, Step], bool]


@dataclass(frozen=True)
class Loss:
    """One simulated client is lost at one step.

    Args:
        client: its name.
        step: the message that never arrives: "advertise" or "shares" lose it in the set-up of an epoch, "masked" in the
            middle of a round (its input is not in the sum), "unmask" after its input is in. "sign" is the message
            before "unmask" that only security="malicious" has; elsewhere nothing is lost by it.
        rounds: numbers of the releases, from 1, in which it is lost; None for all. A loss in set-up lasts for
            the whole epoch that such a release opens; in trusted mode, which has no epochs, for these releases alone.
    """

    client: str
    step: Step
    rounds: Collection[int] | None = None

    def strikes(self, client: str, step: Step, round: int) -> bool:
        """Return whether `client` is lost at `step` of release `round`."""
        return client == self.client and step == self.step and (self.rounds is None or round in self.rounds)


def check_losses(losses: Iterable[Loss], clients: Collection[str]) -> tuple[Loss, ...]:
    """Return `losses` as a tuple, having checked that each names a client and a step that exist.

    Raises:
        UsageError: naming what was found.
    """
    if isinstance(losses, Loss | str) or not isinstance(losses, Iterable):
        raise UsageError(f"losses is {losses!r}, expected a list of Loss: use losses=[privfed.Loss(client, 'masked')]")
    checked = tuple(losses)
    for loss in checked:
        if not isinstance(loss, Loss):
            raise UsageError(f"a drop-out is {loss!r}, expected a Loss: use privfed.Loss({loss!r}, 'masked')")
        if loss.client not in clients:
            raise UsageError(f"a drop-out names client {loss.client!r}, expected one of {sorted(clients)}")
        if loss.step not in get_args(Step):
            raise UsageError(f"a drop-out names step {loss.step!r}, expected one of {list(get_args(Step))}")
    return checked
