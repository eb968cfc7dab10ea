"""A process that makes child processes spend a budget, and kills them; run by the tests, one JSON scenario a line.

Forking from one warm process keeps a kill down to milliseconds. Scenarios:

    {"do": "die", "path", "step", "rounds", "revealed"}      child kills itself (SIGKILL) at a named step
    {"do": "kill", "path", "after", "rounds", "revealed"}    killed from outside after so many steps, wherever it is
    {"do": "race", "path", "processes", "share", "queue"}    several children spend one budget at once
    {"do": "nobody", "path"}                                 unprivileged child writes and reads; prints how it went

Each prints one JSON line. A child "reveals" a round by appending its entry to the file `revealed`, after reserving and
before settling, as the protocol would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from privfed_accounting import AccountingError, BudgetExhausted, Ledger
from privfed_accounting.postgres import PostgresDatabase
from tests.accounting.plans import BUDGET, plan


def spend(path: str, rounds: int, revealed: str, on_step: Callable[[str], None]) -> None:
    """Reserve, reveal, settle; and a void and a note now and then."""
    with Ledger.open(path, budget=BUDGET, on_step=on_step) as ledger:
        for number in range(rounds):
            entry = ledger.reserve(plan(mu2=1e-5))
            if number % 4 == 3:
                ledger.void(entry, reason="nobody came")
                ledger.note("a round was given back", {"round": number})
                continue
            on_step("reveal:before")
            reveal(revealed, entry)
            on_step("reveal:after")
            ledger.settle(entry, participants=50, survivors=40, bytes_up=1)


def reveal(path: str, entry: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, f"{entry}\n".encode())
    os.close(descriptor)


def in_child(work: Callable[[], None]) -> int:
    """Fork, run, and leave without tidying up; returns the child's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def die(scenario: dict[str, Any]) -> dict[str, Any]:
    def at(name: str) -> None:
        if name == scenario["step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    child = in_child(lambda: spend(scenario["path"], scenario["rounds"], scenario["revealed"], at))
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def kill(scenario: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = os.pipe()

    def work() -> None:
        spend(scenario["path"], scenario["rounds"], scenario["revealed"], lambda name: os.write(theirs, b".") and None)

    child = in_child(work)
    os.close(theirs)
    seen = 0
    while seen < scenario["after"] and (step := os.read(ours, 1)):
        seen += len(step)
    os.kill(child, signal.SIGKILL)
    os.close(ours)
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "steps": seen}


@contextlib.contextmanager
def unqueued(self: PostgresDatabase, connection: object) -> Iterator[None]:
    """As if the lock for which writers queue were never there."""
    yield


def race(scenario: dict[str, Any]) -> dict[str, Any]:
    start, go = os.pipe()
    reports, report = os.pipe()

    def work() -> None:
        if not scenario["queue"]:
            PostgresDatabase._queued = unqueued
        os.close(go)
        os.read(start, 1)  # returns at once for everybody when the parent closes its end
        accepted = 0
        with Ledger.open(scenario["path"], budget=BUDGET, timeout=60.0) as ledger:
            try:
                while True:
                    entry = ledger.reserve(plan(mu2=scenario["share"] * ledger.total_mu2()))
                    ledger.settle(entry, participants=50, survivors=40, bytes_up=1)
                    accepted += 1
            except BudgetExhausted:
                os.write(report, f"{accepted}\n".encode())

    children = [in_child(work) for _ in range(scenario["processes"])]
    os.close(start)
    os.close(go)
    os.close(report)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    with os.fdopen(reports) as lines:
        return {"statuses": statuses, "accepted": [int(line) for line in lines]}


def nobody(scenario: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = os.pipe()

    def work() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        answer = {}
        for name, budget in (("write", BUDGET), ("read", None)):
            try:
                with Ledger.open(scenario["path"], budget=budget) as ledger:
                    answer[name] = f"{len(ledger.rounds())} rounds"
                    if budget is not None:
                        ledger.reserve(plan(mu2=1e-5))
                        answer[name] = "wrote"
            except AccountingError as error:
                answer[name] = f"{type(error).__name__}: {error}"
        os.write(theirs, json.dumps(answer).encode())

    child = in_child(work)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        text = answer.read()
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), **json.loads(text or "{}")}


def main() -> None:
    actions = {"die": die, "kill": kill, "race": race, "nobody": nobody}
    # Both ways of opening must be loaded before a child loses its privileges.
    Ledger.open(None, budget=BUDGET).reserve(plan(mu2=1e-5))
    Path.cwd()
    for line in sys.stdin:
        scenario = json.loads(line)
        print(json.dumps(actions[scenario["do"]](scenario)), flush=True)


if __name__ == "__main__":
    main()
