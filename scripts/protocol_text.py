"""Draw what `protocols/README.md` takes from the code: state diagrams and the sizes of messages.

python scripts/protocol_text.py            write them between their marks
python scripts/protocol_text.py --check    fail if the page has others
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "protocols" / "README.md"
sys.path[:0] = [str(ROOT), str(ROOT / "protocols")]
MARKED: Final = re.compile(r"(<!-- (?P<name>[a-z ]+): scripts/protocol_text.py -->\n).*?(\n<!-- end -->)", re.DOTALL)


def diagram(table: Mapping[Any, Mapping[Any, Any]], start: str, *, end: str = "") -> str:
    """Return a Mermaid diagram of a table; several triggers between two states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, moves in table.items():
        for trigger, following in moves.items():
            arrows.setdefault((state.name, following.name), []).append(trigger.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    lines += [f"    {one} --> {other}: {', or '.join(words)}" for (one, other), words in arrows.items()]
    lines += [f"    {end} --> [*]"] if end else []
    return "\n".join([*lines, "```"])


def client_diagram() -> str:
    """Return the client's states."""
    from privfed_protocols.states import CLIENT_TRANSITIONS

    return diagram(CLIENT_TRANSITIONS, "NEW", end="ABORTED")


def server_diagram() -> str:
    """Return the server's states."""
    from privfed_protocols.states import SERVER_TRANSITIONS

    return diagram(SERVER_TRANSITIONS, "ADVERTISE", end="FAILED")


def slot_diagram() -> str:
    """Return the states of a slot."""
    from privfed_protocols.states import SLOT_TRANSITIONS

    return diagram(SLOT_TRANSITIONS, "ABSENT", end="LEFT_OUT")


def sizes() -> str:
    """Return the bytes of every message of three epochs, as they are sent to and from one client."""
    columns = {
        "n = 100, semi-honest": measured("semi-honest", 100),
        "n = 100, malicious": measured("malicious", 100),
        "n = 1000 on a ring of k = 30": measured("semi-honest", 1000, n_min=940, corrupt=0.05, dropout=0.05),
    }
    rows = ["| message | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in (f"M{number}" for number in range(11)):
        cells = (f"{one[name]:,}" if name in one else "" for one in columns.values())
        rows += [f"| {name} | " + " | ".join(cells) + " |"]
    return "\n".join(rows)


def measured(mode: Literal["semi-honest", "malicious"], n: int, **offered: object) -> dict[str, int]:
    """Return the bytes of each message, by running an epoch of ten rounds up to the first answer."""
    from privfed_protocols import ClientPolicy, VectorSpec
    from tests.protocols.harness import MODEL, PLAN, Network, identities

    settings: dict[str, Any] = {"dropout": 0.1} | offered
    net = Network.make(
        n, vectors=[VectorSpec("x", 1000, 32)], rounds=10, mode=mode, policy=ClientPolicy(n_max=n), **settings
    )
    first, found = identities(1)[0], {"M0": len(net.server.offer)}

    def exchange(mail: Mapping[bytes, bytes], told: str, answer: str) -> None:
        found[told] = len(mail[first])
        for name, message in mail.items():
            reply = net.tell(name, message)
            if name == first and reply is not None:
                found[answer] = len(reply)
            net.send(name, reply)

    exchange(dict.fromkeys(net.clients, net.server.offer), "M0", "M1")
    exchange(net.server.close_advertise(), "M2", "M3")
    deliveries = net.server.close_shares()
    found["M4"] = len(deliveries[first])
    for name, message in deliveries.items():
        net.tell(name, message)
    vectors = net.vectors()
    for name, message in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
        net.tell(name, message)
        reply = net.submit(name, vectors[name])
        net.send(name, reply)
        if name == first:
            found |= {"M5": len(message), "M6": len(reply)}
    mail = net.server.close_inputs()
    if mode == "malicious":
        exchange(mail, "M7", "M8")
        mail = net.server.close_signatures()
    exchange(mail, "M9" if mode == "malicious" else "M7", "M10")
    return found


PARTS: Final[dict[str, Callable[[], str]]] = {
    "client states": client_diagram,
    "server states": server_diagram,
    "slot states": slot_diagram,
    "sizes": sizes,
}


def drawn(text: str) -> str:
    """Return the page with every marked part drawn anew."""
    return MARKED.sub(lambda found: found[1] + PARTS[found["name"]]() + found[3], text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description="Draw the protocol text's diagrams and sizes.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page differs")
    check = parser.parse_args(arguments).check
    text = PAGE.read_text(encoding="utf-8")
    wanted = drawn(text)
    if {found["name"] for found in MARKED.finditer(text)} != set(PARTS):
        print("a part is missing, or marked by another name")
        return 1
    if check:
        print("as it should be" if wanted == text else "differs: run scripts/protocol_text.py")
        return int(wanted != text)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
