"""Every way in which a server can refuse or fall over: a clear error with its remedy, no password, nothing lost."""

from __future__ import annotations

import sys
import traceback

import pytest
import sqlalchemy as sa

from privfed_accounting import (
    Budget,
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerFull,
    LedgerReadOnly,
    LedgerUnreachable,
    LedgerVersionError,
    ParameterError,
    Total,
    verify,
)
from privfed_accounting import journal as journal_module
from privfed_accounting.postgres import LOCK_KEY
from privfed_accounting.storage import SCHEMA_VERSION
from tests.accounting.plans import BUDGET, plan
from tests.postgres.server import PASSWORD, Server, open_patiently, refusal

WRONG = "a wrong password"


def changed(url: str, **parts: object) -> str:
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


def everything_said(error: BaseException) -> str:
    """The error with its traceback and its causes, but for the lines of this file."""
    report = "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)
    return "".join(line for line in report.splitlines() if "Ledger.open(f" not in line)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"password": WRONG}, "does not let us in"),
        ({"username": "nobody_of_that_name", "password": WRONG}, "correct user, password or database"),
        ({"database": "no_such_database"}, "does not exist): correct"),
        ({"port": 1, "password": WRONG}, "cannot be reached"),
        ({"host": "host.invalid", "password": WRONG}, "cannot be reached"),
    ],
)
def test_a_server_that_does_not_let_us_in(url: str, parts: dict[str, object], message: str) -> None:
    wrong = changed(url, **parts)
    for work in (lambda: Ledger.open(wrong, budget=BUDGET, timeout=2.0), lambda: verify(wrong, timeout=2.0)):
        error = refusal(work)
        assert isinstance(error, LedgerUnreachable)
        assert message in str(error)
        for secret in (WRONG, PASSWORD):
            assert secret not in everything_said(error)


def test_the_password_is_nowhere(url: str) -> None:
    with Ledger.open(url, budget=BUDGET) as ledger:
        ledger.note("x")
        verdict = verify(ledger)
        for text in (repr(ledger), str(ledger.location), repr(ledger._database), str(verdict)):
            assert PASSWORD not in text
            assert "***" not in text, "a location is fit to be given to open() again"
        assert str(ledger.location).startswith("postgresql+psycopg://privfed@127.0.0.1")
        for error in (
            refusal(lambda: Ledger.open(url, budget=Budget(1.0, 1e-6))),
            refusal(lambda: ledger.void(1, reason="x")),
        ):
            assert PASSWORD not in everything_said(error)


def test_a_password_in_the_query_is_one_too(url: str) -> None:
    bare = changed(url, password=None)
    with Ledger.open(f"{bare}?password={PASSWORD.replace(' ', '%20')}", budget=BUDGET) as ledger:
        assert "password" not in str(ledger.location)
    error = refusal(lambda: Ledger.open(f"{bare}?password=hunter2", budget=BUDGET))
    assert "hunter2" not in everything_said(error)


def test_urls_that_mean_nothing_to_us() -> None:
    for text in ("mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d", "://", "no such scheme://x"):
        error = refusal(lambda text=text: Ledger.open(text, budget=BUDGET))
        assert isinstance(error, ParameterError)
        assert "hunter2" not in everything_said(error)


def test_without_the_driver(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerUnreachable, match=r"install privfed\[postgres\]"):
        Ledger.open(url, budget=BUDGET)


def test_a_newer_schema_and_an_older_one(url: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO privfed_ledger VALUES (%s)", (SCHEMA_VERSION + 1,))
    for budget in (BUDGET, None):
        with pytest.raises(LedgerVersionError, match="or a newer one"):
            Ledger.open(url, budget=budget)


def test_a_replica_that_takes_no_writes(server: Server, url: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    server.sql(f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_read_only = on")
    with Ledger.open(url, budget=BUDGET) as ledger, pytest.raises(LedgerReadOnly, match="read-only"):
        ledger.reserve(plan())


def test_a_server_that_may_forget(server: Server, url: str) -> None:
    server.sql("ALTER SYSTEM SET fsync = off")
    server.sql("SELECT pg_reload_conf()")
    try:
        for _ in range(3000):
            if server.sql("SHOW fsync") == "off":
                break
        with pytest.raises(LedgerError, match="switch fsync on"):
            Ledger.open(url, budget=BUDGET)
    finally:
        server.sql("ALTER SYSTEM RESET fsync")
        server.sql("SELECT pg_reload_conf()")
    for _ in range(3000):
        if server.sql("SHOW fsync") == "on":
            break
    server.sql(f"ALTER DATABASE {sa.make_url(url).database} SET synchronous_commit = off")
    with Ledger.open(url, budget=BUDGET) as ledger, ledger._database.transaction() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "serializable"


@pytest.mark.parametrize(
    ("state", "expected"),
    [("53100", LedgerFull), ("53200", LedgerFull), ("55P03", LedgerBusy), ("57P03", LedgerUnreachable)],
)
def test_every_refusal_has_a_name_and_a_remedy(url: str, state: str, expected: type) -> None:
    """The server is made to say it: by a trigger, as its disk cannot be filled here."""
    with Ledger.open(url, budget=BUDGET) as ledger:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION says() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN RAISE EXCEPTION 'said {PASSWORD}' USING ERRCODE = '{state}'; END$$"
            )
            connection.exec_driver_sql("CREATE TRIGGER says BEFORE INSERT ON entries EXECUTE FUNCTION says()")
        head = ledger.head
        error = refusal(lambda: ledger.reserve(plan()))
        assert type(error) is expected
        assert PASSWORD not in everything_said(error)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER says ON entries")
        ledger.refresh()
        assert ledger.head == head
        ledger.reserve(plan())


def test_locked_by_another_coordinator(url: str) -> None:
    other = sa.create_engine(url, poolclass=sa.pool.NullPool).connect()
    Ledger.open(url, budget=BUDGET).close()
    other.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_KEY})")
    with Ledger.open(url, budget=None) as reader:
        assert reader.rounds() == [], "a reader does not wait"
    with pytest.raises(LedgerBusy, match="nothing was charged: wait"):
        Ledger.open(url, budget=BUDGET, timeout=0.05)
    other.close()
    Ledger.open(url, budget=BUDGET, timeout=0.05).close()


def test_serialization_failures_are_run_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another coordinator writes between our reading and our appending, without queueing for the lock."""
    monkeypatch.setattr("privfed_accounting.postgres.PostgresDatabase._queued", _unqueued)
    seen: list[str] = []
    armed: list[int] = []

    def meddle(name: str) -> None:
        seen.append(name)
        if name == "reserve:checked" and armed:
            armed.pop()
            other.reserve(plan(mu2=0.3 * other.total_mu2()))

    with Ledger.open(url, budget=BUDGET) as other, Ledger.open(url, budget=BUDGET, on_step=meddle) as ledger:
        armed[:] = [1, 2]
        ledger.reserve(plan(mu2=0.3 * ledger.total_mu2()))
        assert seen.count("reserve:checked") == 3, "lost twice, then won"
        assert len(ledger.rounds()) == 3
        # Now the other's rounds take the budget away under our feet: run again means checked again.
        armed[:] = [1]
        error = refusal(lambda: ledger.reserve(plan(mu2=0.1 * ledger.total_mu2())))
        assert type(error).__name__ == "BudgetExhausted"
        assert Total.of(record.reserved_charge for record in other.rounds()).mu2 <= other.total_mu2() * 1.0000001
    assert verify(url).ok or "passes the budget" not in str(verify(url).problems)


def test_running_again_has_a_bound(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privfed_accounting.postgres.PostgresDatabase._queued", _unqueued)
    monkeypatch.setattr(journal_module.time, "sleep", lambda seconds: None)
    tries = []

    def meddle(name: str) -> None:
        if name == "note:checked":
            tries.append(name)
            other.note("first")

    with Ledger.open(url, budget=BUDGET) as other, Ledger.open(url, budget=BUDGET, on_step=meddle) as ledger:
        with pytest.raises(LedgerBusy, match=f"failed {journal_module.ATTEMPTS} times"):
            ledger.note("second")
        assert len(tries) == journal_module.ATTEMPTS
        assert all(note.text == "first" for note in other.notes())


def _unqueued(self: object, connection: object) -> object:
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize("step", ["locked", "checked", "inserted", "committed"])
def test_the_servers_process_is_killed_between_two_steps(server: Server, url: str, step: str) -> None:
    """Kill -9 of the backend that serves us: the charge stands or it does not, and the chain holds."""
    killed: list[int] = []

    def kill(name: str) -> None:
        if name == f"reserve:{step}" and armed and not killed:
            killed.append(armed[0])
            server.kill(armed[0])

    armed: list[int] = []
    ledger = Ledger.open(url, budget=BUDGET, on_step=kill)
    revealed = [ledger.reserve(plan(mu2=1e-5))]
    with ledger._database.transaction() as connection:
        armed.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    if step == "committed":
        revealed.append(ledger.reserve(plan(mu2=1e-5)))  # the charge was on disk when the backend died
    else:
        error = refusal(lambda: ledger.reserve(plan(mu2=1e-5)))
        assert "cannot be reached, or went away" in str(error)
        assert PASSWORD not in everything_said(error)
    assert killed
    server.wait()
    with open_patiently(url, budget=BUDGET) as again:
        charged = {record.entry for record in again.rounds()}
        assert set(revealed) <= charged
        assert again.spent() == Total.of([plan(mu2=1e-5).charge("server")] * len(charged))
        again.reserve(plan(mu2=1e-5))
    ledger.refresh()
    assert len(ledger.rounds()) == len(charged) + 1, "the old object finds its way back"
    ledger.reserve(plan(mu2=1e-5))
    assert verify(ledger).ok
    ledger.close()


def test_the_server_is_restarted_under_an_open_ledger(server: Server, url: str) -> None:
    if server.folder is None:
        pytest.skip("this server is not ours to stop")
    with Ledger.open(url, budget=BUDGET) as ledger:
        ledger.reserve(plan())
        server.control("-m", "immediate", "stop")
        with pytest.raises(LedgerUnreachable):
            ledger.reserve(plan())
        server.start()
        ledger.reserve(plan())
        assert 2 <= len(ledger.rounds()) <= 3
        assert verify(ledger).ok
