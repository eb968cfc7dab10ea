"""A private PostgreSQL server for the tests: found on this machine, started under another user where we are root."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import privfed_accounting
from privfed_accounting import AccountingError, Ledger

PASSWORD = "correct horse battery staple"
PATIENCE = 300  # seconds: a loaded machine is not a bug


class NoServer(Exception):  # noqa: N818
    """There is no PostgreSQL here; the message says what is missing."""


def binaries() -> Path:
    """Folder with initdb, pg_ctl and postgres, the newest version first."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += [Path(folder) for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise NoServer("no initdb, pg_ctl and postgres on this machine: install PostgreSQL, or set PRIVFED_TEST_POSTGRES")


class Server:
    """One server: private (`folder` is its data) or given by a URL."""

    def __init__(self, url: sa.URL, folder: Path | None = None, user: str | None = None) -> None:
        self.url = url
        self.folder = folder
        self.user = user
        self._admin = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool, connect_args={"connect_timeout": 5}
        )

    def sql(self, statement: str) -> Any:
        """Run one statement as the server's owner and return its first value, if there is one."""
        with self._admin.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None

    def fresh(self) -> str:
        """URL of a new, empty database."""
        name = f"ledger_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url.set(database=name).render_as_string(hide_password=False)

    def wait(self) -> None:
        """Until it takes connections again, after one of its processes was killed."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.sql("SELECT 1")
                return
            except sa.exc.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # nothing tells us when recovery is over

    def kill(self, backend: int) -> None:
        """Kill one of the server's processes as the kernel's out-of-memory killer would."""
        os.kill(backend, signal.SIGKILL)

    def start(self) -> None:
        """Start the private server, again or for the first time."""
        if self.folder is None:
            raise NoServer("this server is not ours")
        top = self.folder.parent
        options = f"-p {self.url.port} -k {top} -c listen_addresses=127.0.0.1 -c max_connections=40"
        self.control("-l", str(top / "log"), "-o", f"{options} -c shared_buffers=16MB", "start")

    def control(self, *arguments: str) -> None:
        """Run pg_ctl on the private server."""
        if self.folder is None:
            raise NoServer("this server is not ours")
        _run(
            [str(binaries() / "pg_ctl"), "-D", str(self.folder), "-w", "-s", "-t", str(PATIENCE), *arguments],
            self.user,
            self.folder,
        )


@contextlib.contextmanager
def private_server() -> Iterator[Server]:
    """Make a cluster in a temporary folder, start it, and take it away afterwards."""
    programs, user = binaries(), _unprivileged()
    top = Path(tempfile.mkdtemp(prefix="privfed-postgres-", dir=_quick_folder()))
    folder, port = top / "data", _free_port()
    try:
        folder.mkdir()
        (top / "password").write_text(PASSWORD)
        if user is not None:
            for path in (top, folder, top / "password"):
                shutil.chown(path, user)
        arguments = ["-D", str(folder), "-U", "privfed", "-A", "scram-sha-256", "--pwfile", str(top / "password")]
        _run([str(programs / "initdb"), *arguments, "-E", "UTF8", "--no-locale"], user, top)
        url = sa.URL.create("postgresql", "privfed", PASSWORD, "127.0.0.1", port, "postgres")
        server = Server(url, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(top, ignore_errors=True)


def open_patiently(url: str, **options: Any) -> Ledger:
    """Open a ledger whose server may still be recovering."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Ledger.open(url, **options)
        except privfed_accounting.LedgerUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def refusal(work: Any) -> AccountingError:
    """The error that work ends with."""
    try:
        work()
    except AccountingError as error:
        return error
    raise AssertionError("nothing was refused")


def _unprivileged() -> str | None:
    """The user to run the server as: ourselves, unless that is root, whom the server refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    raise NoServer("we are root, and there is neither a user postgres nor nobody to run a server as")


def _quick_folder() -> str | None:
    """A file system in memory with room for a cluster, where there is one; the server keeps its fsync on."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2**30
    return str(shared) if roomy else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(command: list[str], user: str | None, folder: Path) -> None:
    rights: dict[str, Any] = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid}
    if user is not None:
        rights["extra_groups"] = []
    # Into a file, for a server that inherits our pipe would keep it open.
    with tempfile.TemporaryFile() as words:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=words,
            stderr=words,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=2 * PATIENCE,
            **rights,
        )
        words.seek(0)
        if done.returncode:
            raise NoServer(f"{Path(command[0]).name} failed: {words.read().decode(errors='replace').strip()}")
