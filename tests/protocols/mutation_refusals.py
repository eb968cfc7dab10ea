"""Takes every refusal of the protocol out in turn, and shows that a negative vector or a quick test misses it.

    python tests/protocols/mutation_refusals.py [--only TEXT] [--jobs N] [--list]

What is taken out, one at a time, from a copy of the package in memory (the files are not touched):

    raise    a `raise` of an error of the peer (or of refusal 18), replaced by nothing
    entry    one of the findings that a table of findings refuses for
    operand  one of several conditions that lead to the same refusal, or one end of a range
    call     the call of a check
    bound    a bound on a decoded field, or the refusal of unknown fields

Each mutant runs in a process of its own: first all negative vectors, and if none of them notices, the tests named in
`TESTS`. A mutant that nobody notices survives; the exit status is the number of survivors. Those in `REDUNDANT` are not
run: what they take out is also refused elsewhere, for the reason given there. Before all others runs the package as it
is, which has to survive.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "protocols" / "privfed_protocols"
SECONDS = 900  # for one mutant; one that hangs shows nothing and counts as a survivor

TESTS = (
    "test_mutation_gaps.py", "test_repeats.py", "test_policy.py", "test_identities.py", "test_primitives.py",
    "test_packing.py", "test_codec.py", "test_secrets.py", "test_server.py", "test_refusals.py",
    "test_refusals_signed.py", "test_surplus.py", "test_epochs.py", "test_fuzz_parsers.py", "test_parameters.py",
    "test_ring.py",
)  # fmt: skip

# What cannot be missed by anybody, since something else refuses the same message by the same name.
BITMAP = "wire: bound {}: msgspec.Meta(min_length=1, max_length=2**18)"
REDUNDANT: dict[str, str] = {
    "messages: bound min_length: msgspec.Meta(min_length=128)": "nothing so short decodes as an advertise",
    BITMAP.format("min_length"): "bitmap.check wants exactly ceil(n / 8) bytes",
    BITMAP.format("max_length"): "bitmap.check wants exactly ceil(n / 8) bytes",
}

# Checks of the caller's own arguments and of the client's own storage: they refuse no message.
OWN = {"_check_ring", "_check_arguments", "_check_feasible", "self._check_own_key"}
OWN_STORAGE = {"saved", "vault"}

CHECKS = re.compile(r"^(self\.)?_?(check|refuse)\w*$|^\w+\.check\w*$|^self\._awaits$|^self\._policy\.check\w*$")
TABLES = {"weak", "over", "problems"}


@dataclass(frozen=True)
class Mutant:
    """A package with one refusal less."""

    module: str
    line: int
    kind: str
    what: str
    source: str

    @property
    def name(self) -> str:
        """Module, function-free: it has to survive edits elsewhere."""
        return f"{self.module}: {self.kind}: {self.what}"


CONTROL = Mutant("labels", 0, "control", "nothing taken out", (PACKAGE / "labels.py").read_text(encoding="utf-8"))


def refusals() -> set[str]:
    """Names of the errors that refuse something."""
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    found = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["PeerProtocolError"]
    }
    return found | {"ValueOutOfRange", "UnknownSuite", "missing", "error"}  # the last two are parameters


def replaced(source: str, node: ast.AST, text: str) -> str:
    """The source with the text of a node replaced."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()
    begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
    end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
    return (raw[:begin] + text.encode() + raw[end:]).decode()


def mutants() -> Iterator[Mutant]:
    """All of them, module by module."""
    names = refusals()
    for path in sorted(PACKAGE.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.stem in OWN_STORAGE:
            continue
        seen: Counter[str] = Counter()
        for kind, node, text in _places(ast.parse(source), names):
            what = re.sub(r"\s+", " ", ast.get_source_segment(source, node) or "")[:110]
            seen[kind + what] += 1
            what += f" #{seen[kind + what]}" if seen[kind + what] > 1 else ""
            line: int = node.lineno  # type: ignore[attr-defined]
            yield Mutant(path.stem, line, kind, what, replaced(source, node, text))


def _places(tree: ast.Module, names: set[str]) -> Iterator[tuple[str, ast.AST, str]]:
    """Kind, node and what to put in its place."""
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name))) if name in names:
                yield "raise", node, "pass"
            case ast.Raise(exc=None):
                yield "raise", node, "pass"
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(values=values)) if name in TABLES:
                yield from (("entry", value, "False") for value in values)
            case ast.If(test=test, body=[*_, ast.Raise(exc=ast.Call(func=ast.Name(id=name)))]) if name in names:
                yield from _operands(test)
            case ast.Assign(targets=[ast.Name(id="proven")], value=ast.BoolOp(values=values)):
                yield from (("operand", value, "True") for value in values)
            case ast.FunctionDef(name="check_layout" | "check_offer"):
                for one in ast.walk(node):
                    match one:
                        case ast.Return(value=ast.JoinedStr() | ast.Constant(value=str())):
                            yield "entry", one, "pass"
                        case ast.Assign(targets=[ast.Name(id="problem")], value=ast.JoinedStr()):
                            yield "entry", one, "pass"
            case ast.Expr(value=ast.Call(func=function)) if CHECKS.match(ast.unparse(function)):
                if ast.unparse(function) not in OWN:
                    yield "call", node, "pass"
            case ast.Call(func=ast.Attribute(attr="Meta") as function, keywords=keywords):
                for dropped in keywords:
                    kept = ", ".join(ast.unparse(one) for one in keywords if one is not dropped)
                    yield f"bound {dropped.arg}", node, f"{ast.unparse(function)}({kept})"
            case ast.keyword(arg="forbid_unknown_fields", value=value):
                yield "bound", value, "False"


def _operands(test: ast.expr) -> Iterator[tuple[str, ast.AST, str]]:
    match test:
        case ast.BoolOp(op=ast.Or(), values=values):
            for value in values:
                yield "operand", value, "False"
        case ast.UnaryOp(op=ast.Not(), operand=ast.Compare(left=left, ops=[one, two], comparators=[middle, right])):
            yield "operand", test.operand, ast.unparse(ast.Compare(middle, [two], [right]))  # no lower end
            yield "operand", test.operand, ast.unparse(ast.Compare(left, [one], [middle]))  # no upper end
        case ast.UnaryOp(op=ast.Not(), operand=ast.BoolOp(op=ast.And(), values=values)):
            for value in values:
                yield "operand", value, "True"


class Instead(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Gives the import system a mutant's source for its module."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(f"privfed_protocols.{mutant.module}", str(PACKAGE / f"{mutant.module}.py"))
        self.mutant = mutant

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> Any:
        """Only for the one module."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname: str) -> Any:
        """Never from a cache."""
        return compile(self.mutant.source, self.path, "exec")


def noticed_by(mutant: Mutant) -> str:
    """Who notices the mutant, in this process, which must not have imported the package yet; "" for nobody."""
    sys.meta_path.insert(0, Instead(mutant))
    importlib.import_module("privfed_protocols")
    from tests.protocols.replay_refusals import wrong_cases

    found = next(wrong_cases(), "")
    if found:
        return found
    import pytest

    folder = ROOT / "tests" / "protocols"
    quick = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    status = pytest.main([*quick, *(str(folder / one) for one in TESTS)])
    return "" if status == 0 else "a test"


def run(mutant: Mutant) -> tuple[int, int]:
    """Start a mutant in a child process; its id, and where it will say who noticed it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    signal.alarm(SECONDS)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        said = noticed_by(mutant) or "-"
    except BaseException as error:  # noqa: BLE001 -- a mutant that does not even import shows nothing
        said = f"-{type(error).__name__}: {error}"
    os.write(writing, said.encode()[:4000])
    os._exit(0)


def survivors(chosen: Sequence[Mutant], *, jobs: int) -> list[Mutant]:
    """Run mutants, some at a time; those that nobody noticed."""
    waiting, running, left = list(chosen), {}, []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop(0)
            child, reading = run(mutant)
            running[child] = (mutant, reading, time.monotonic())
        child, status = os.wait()
        mutant, reading, began = running.pop(child)
        with os.fdopen(reading, "rb") as said:
            by = said.read().decode(errors="replace") or f"-no answer (status {status})"
        if by.startswith("-"):
            left.append(mutant)
        told = f"SURVIVES {by[1:]}" if by.startswith("-") else f"noticed by {by[:110]}"
        print(f"{mutant.module}.py:{mutant.line}: {mutant.kind}: {mutant.what}\n    {told} "
              f"({time.monotonic() - began:.1f} s)", flush=True)  # fmt: skip
    return left


def main() -> int:
    """The number of survivors."""
    parser = argparse.ArgumentParser(description="Take every refusal out in turn.")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="list the mutants and end")
    options = parser.parse_args()
    everything = list(mutants())
    unknown = set(REDUNDANT) - {mutant.name for mutant in everything}
    if unknown:
        print("listed as redundant, but not there: " + "; ".join(sorted(unknown)))
        return 1
    chosen = [one for one in everything if options.only in one.name and one.name not in REDUNDANT]
    if options.list:
        print("\n".join(mutant.name for mutant in everything))
        return 0
    sys.path[:0] = [str(ROOT), str(ROOT / "protocols"), str(ROOT / "accounting")]
    for module in ("numpy", "msgspec", "pytest", "cryptography.hazmat.primitives.ciphers.aead"):
        importlib.import_module(module)  # once, for all children
    if not options.only and not survivors([CONTROL], jobs=1):
        print("the unchanged package fails a vector or a test: nothing can be told from mutants")
        return 1
    left = survivors(chosen, jobs=options.jobs)
    print(f"{len(chosen)} refusals taken out, {len(left)} survivors, {len(REDUNDANT)} redundant and not run")
    for mutant in left:
        print(f"survivor: {mutant.name}")
    return len(left)


if __name__ == "__main__":
    raise SystemExit(main())
