"""The ledger on a PostgreSQL server: one append-only table, serializable transactions, its errors in plain words.

Two nets under one budget. Serializable isolation makes any interleaving of coordinators equal to one after the other,
or fails one of them, which is then run again. And a session-wide advisory lock lets writers queue, so that they seldom
collide; without it (a pooler in between) the first net still holds. Needs no more rights than SELECT and INSERT once
the table is there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from privfed_accounting.chain import Row
from privfed_accounting.errors import (
    CorruptLedger,
    LedgerBusy,
    LedgerError,
    LedgerFull,
    LedgerReadOnly,
    LedgerUnreachable,
    NotALedger,
)
from privfed_accounting.storage import ENTRIES, SCHEMA_VERSION, Conflict, Storage, metadata

LOCK_KEY: Final = 0x70666C31  # "pfl1", within the database
_VERSIONS: Final = sa.Table("privfed_ledger", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True))
_REFUSE: Final = "BEGIN RAISE EXCEPTION 'the ledger is append-only'; END"
_FUNCTION: Final = f"CREATE FUNCTION privfed_append_only() RETURNS trigger LANGUAGE plpgsql AS $body${_REFUSE}$body$"
_TRIGGERS: Final = {
    f"{table}_no_{verb.lower()}": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    f"FOR EACH {'STATEMENT' if verb == 'TRUNCATE' else 'ROW'} EXECUTE FUNCTION privfed_append_only()"
    for table in ("entries", "privfed_ledger")
    for verb in ("UPDATE", "DELETE", "TRUNCATE")
}
# pg_trigger.tgtype: row 1, before 2, delete 8, update 16, truncate 32.
_KINDS: Final = {"update": 1 + 2 + 16, "delete": 1 + 2 + 8, "truncate": 2 + 32}
# Guards that fire always (tgenabled O or A, no condition), call our function, and whose function still refuses.
_GUARDS: Final = sa.text(
    "SELECT t.tgrelid = to_regclass('entries') AS main, t.tgname, t.tgtype "
    "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
    "WHERE t.tgrelid IN (to_regclass('entries'), to_regclass('privfed_ledger')) AND t.tgqual IS NULL "
    "AND t.tgenabled IN ('O', 'A') AND p.proname = 'privfed_append_only' AND p.prosrc = :source"
)
_ORPHANS: Final[list[object]] = []  # engines inherited over a fork: their sockets belong to the parent


class PostgresDatabase(Storage):
    """One ledger on a server, opened by one process; safe to share between threads.

    The ledger is the table `entries` in the first schema of the connection's search path: give each ledger a database
    or a schema of its own (`?options=-csearch_path%3Dmy_schema`).

    Args:
        url: SQLAlchemy URL; the driver is psycopg unless it names another. A password may stand in it, better in
            ~/.pgpass or PGPASSWORD; it appears in no message, repr or report.
        read_only: open without the right to write.
        timeout: seconds to wait for the server to answer, and for another coordinator's lock.

    Raises:
        LedgerUnreachable: the driver is not installed.
    """

    def __init__(self, url: sa.URL, *, read_only: bool = False, timeout: float = 10.0) -> None:
        self.path = None
        self.read_only = read_only
        if url.get_driver_name() in ("psycopg2", "psycopg") and "+" not in url.drivername:
            url = url.set(drivername="postgresql+psycopg")
        self.location = _without_secrets(url).render_as_string()
        self._secrets = _secrets(url)
        self._url = url
        self._timeout = timeout
        self._lock = threading.RLock()
        self._open()

    def __repr__(self) -> str:
        return f"<PostgresDatabase {self.location}>"

    def _open(self) -> None:
        self._pid = os.getpid()
        # Whoever opens the server's ledger wants a commit on its disk, whatever the server's default is.
        waits = {"lock_timeout": max(1, round(1000 * self._timeout)), "synchronous_commit": "on"}
        try:
            self._engine = sa.create_engine(
                self._url,
                isolation_level="SERIALIZABLE",
                pool_size=1,
                max_overflow=0,
                pool_pre_ping=True,
                hide_parameters=True,
                connect_args={"connect_timeout": max(2, round(self._timeout))},
            )
        except ImportError as error:
            raise LedgerUnreachable(
                f"{self.name} needs the driver {self._url.get_driver_name()!r}, which is not installed: "
                "install privfed[postgres]"
            ) from error
        sa.event.listen(self._engine, "connect", lambda connection, _: _set(connection, waits))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One serializable transaction, committed at the end of the block and rolled back on any error.

        Raises:
            Conflict: another coordinator's transaction came first; nothing was written.
            LedgerError: a named subclass for every way in which the server can refuse.
        """
        with self._lock, self._translated():
            self._check_process()
            with self._engine.connect() as connection, self._queued(connection):
                if self.read_only:
                    connection = connection.execution_options(postgresql_readonly=True)
                with connection.begin():
                    yield connection

    @contextlib.contextmanager
    def _queued(self, connection: sa.Connection) -> Iterator[None]:
        """Hold the writers' advisory lock; taken outside the transaction, whose snapshot is to be newer than it."""
        if self.read_only:
            yield
            return
        _outside(connection, "SELECT pg_advisory_lock(%s)")
        try:
            yield
        finally:
            try:
                _outside(connection, "SELECT pg_advisory_unlock(%s)")
            except Exception:  # noqa: BLE001 - whatever it was, the lock must not outlive this block
                connection.invalidate()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into the ledger's; the chain is cut, lest a password stands somewhere in it."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            failure = self._translate(error.orig)
        except sa.exc.TimeoutError:
            failure = LedgerBusy(f"{self.name} gave no connection in time, nothing was charged: try again")
        except _driver_errors() as error:
            failure = self._translate(error)
        else:
            return
        raise failure from None

    def prepare(self) -> bool:
        """Check that the server answers, keeps its promises, and holds a ledger of a version we know, or none yet.

        Returns:
            Whether there is an existing ledger.
        """
        with self._lock, self._translated(), self._engine.connect() as connection, connection.begin():
            self._check_server(connection)
            if not self._holds_ledger(connection):
                if self.read_only:
                    raise NotALedger(f"{self.name} is empty, expected a ledger: check the database and its schema")
                return False
            self.check_version(self._stored_version(connection))
            return True

    def has_schema(self, connection: sa.Connection) -> bool:
        """Whether the table is there, asked inside the caller's transaction."""
        return self._holds_ledger(connection)

    def create_schema(self, connection: sa.Connection) -> None:
        """Create tables, function and triggers inside the caller's transaction."""
        metadata.create_all(connection, checkfirst=False)
        _VERSIONS.create(connection)
        connection.exec_driver_sql(_FUNCTION)
        for trigger in _TRIGGERS.values():
            connection.exec_driver_sql(trigger)
        self.set_version(connection, SCHEMA_VERSION)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Record a schema version, inside the caller's transaction; earlier ones stay."""
        connection.execute(sa.insert(_VERSIONS).values(version=version))

    def rows(self, connection: sa.Connection, *, first: int) -> Iterator[Row]:
        """Stored rows from number `first` on, in order.

        Raises:
            CorruptLedger: names the first row that the damaged table does not give up.
        """
        table, number = ENTRIES.c, first
        columns = (table.seq, table.kind, sa.func.convert_to(table.entry, "UTF8").label("entry"), table.digest)
        try:
            for row in connection.execute(sa.select(*columns).where(table.seq >= first).order_by(table.seq)):
                yield Row(int(row.seq), str(row.kind), bytes(row.entry or b""), str(row.digest))
                number = int(row.seq) + 1
        except sa.exc.DBAPIError as error:
            if not _state(error.orig).startswith("XX"):
                raise
            raise CorruptLedger(
                f"entry {number} of {self.name} cannot be read, the table is damaged there: restore a backup",
                entry=number,
            ) from None

    def missing_guards(self, connection: sa.Connection) -> list[str]:
        """Names of the append-only triggers that are gone, changed or switched off."""
        rows = connection.execute(_GUARDS, {"source": _REFUSE})
        found = {("entries" if row.main else "privfed_ledger", str(row.tgname), int(row.tgtype)) for row in rows}
        expected = {name: name.rpartition("_no_") for name in _TRIGGERS}
        return [name for name, (table, _, verb) in expected.items() if (table, name, _KINDS[verb]) not in found]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._pid == os.getpid():
                self._engine.dispose()

    def _check_server(self, connection: sa.Connection) -> None:
        if connection.exec_driver_sql("SHOW fsync").scalar_one() != "on":
            raise LedgerError(
                f"{self.name} is on a server with fsync off, which may forget charges: switch fsync on there"
            )

    def _holds_ledger(self, connection: sa.Connection) -> bool:
        query = "SELECT to_regclass('entries') IS NOT NULL, to_regclass('privfed_ledger') IS NOT NULL"
        entries, versions = connection.exec_driver_sql(query).one()
        if entries != versions:
            raise NotALedger(
                f"{self.name} has a table of another program's under our names, expected a ledger or none: "
                "give the ledger a database or a schema of its own"
            )
        return bool(entries)

    def _stored_version(self, connection: sa.Connection) -> int:
        version = connection.execute(sa.select(sa.func.max(_VERSIONS.c.version))).scalar_one()
        if version is None:
            raise CorruptLedger(f"{self.name} states no schema version: restore a backup")
        return int(version)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            _ORPHANS.append(self._engine)
            self._engine.dispose(close=False)
            self._open()

    def _translate(self, error: BaseException | None) -> LedgerError:
        """Ledger's error for a driver's error, with the remedy; SQLSTATE says what it is."""
        state, text = _state(error), self._scrubbed(str(error))
        if state in ("40001", "40P01", "23505"):
            return Conflict(f"{self.name} is written by many at once, nothing was charged: try again")
        if state == "55P03":
            return LedgerBusy(f"{self.name} is locked by another coordinator, nothing was charged: wait and try again")
        if state in ("25006", "42501"):
            return LedgerReadOnly(
                f"{self.name} cannot be written or read by this user ({text}), nothing was charged: grant SELECT and "
                "INSERT on its tables, and look whether the server is a read-only replica"
            )
        if state.startswith("53"):
            return LedgerFull(f"the server of {self.name} is out of space or memory ({text}): make room and try again")
        if not state and "FATAL" in text:  # the server answered; libpq passes its words on, but not its SQLSTATE
            return LedgerUnreachable(
                f"the server of {self.name} does not let us in ({text}): correct user, password or database"
            )
        if state.startswith("XX"):
            return CorruptLedger(f"{self.name} is damaged ({text}): restore it from a backup")
        if not state or state.startswith(("08", "57")):
            return LedgerUnreachable(
                f"the server of {self.name} cannot be reached, or went away ({text}): if a round was being charged, "
                "its charge may stand; start the server, then open the ledger again"
            )
        return LedgerError(f"{self.name} failed with SQLSTATE {state} ({text}): verify it, then try again")

    def _scrubbed(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())


def _set(connection: Any, settings: dict[str, object]) -> None:
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
    connection.commit()


def _outside(connection: sa.Connection, statement: str) -> None:
    """Run a statement about the session, in a transaction of its own."""
    with connection.begin():
        connection.exec_driver_sql(statement, (LOCK_KEY,))


def _state(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _secrets(url: sa.URL) -> tuple[str, ...]:
    named = url.query.get("password", ())
    found = (url.password, *([named] if isinstance(named, str) else named))
    return tuple(str(secret) for secret in found if secret)


def _without_secrets(url: sa.URL) -> sa.URL:
    bare = url.difference_update_query(["password", "sslpassword"])
    return sa.URL.create(bare.drivername, bare.username, None, bare.host, bare.port, bare.database, bare.query)


def _driver_errors() -> tuple[type[BaseException], ...]:
    """What psycopg raises where SQLAlchemy does not stand in between, such as in a hook on connecting."""
    import psycopg

    return (psycopg.Error,)
