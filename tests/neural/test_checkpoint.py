"""Checkpoints: whole, strict, tied to the ledger; and memories at home that go back with them."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privfed import Budget, LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.checkpoints.array_files import decoded_arrays, encoded_arrays, write_whole
from privfed.learners.neural.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_ledger,
    load_checkpoint,
    resume,
)
from privfed.learners.neural.checkpoints.stored_memory import StoredMemory
from privfed.learners.neural.evaluation.early_stopping import EarlyStopping
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.state import Callback, TrainingState
from privfed.statistics.hold_out import HoldOut
from privfed_accounting import verify
from tests.neural.test_early_stopping import model, silos

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")

BUDGET = Budget(8.0, 1e-5, unit="client")


class StopAfter(Callback):
    """Ends a run after a round, as an operator would."""

    def __init__(self, round: int) -> None:
        self.round = round

    def on_round_end(self, state: TrainingState) -> bool:
        return state.round == self.round


def federation(
    ledger: Path | None = None, *, budget: Budget | None = None, done: int = 0, **options
) -> LocalFederation:
    made = LocalFederation(
        silos(), budget=budget, ledger=ledger, **{"mode": "trusted", "max_records": 60, "noise_seed": 7, **options}
    )
    made._drawn = dict.fromkeys(("cohort", "rotation", "central", *made.clients), done)
    return made


def learner(callbacks: object = None, **options) -> FederatedAveraging:
    settings = {"rounds": 6, "learning_rate": 0.3, "random_state": 0, "dtype": "float64", **options}
    return FederatedAveraging(model(), callbacks=callbacks, **settings)


PRIVATE = {"share": 0.1, "clip": 0.5}


def stopped(directory: Path, after: int = 3, *, private: bool = True, **options) -> LocalFederation:
    """Run for some rounds with checkpoints, and return the federation."""
    silo = federation(directory / "ledger.db", budget=BUDGET if private else None)
    settings = {**(PRIVATE if private else {}), **options}
    learner([StopAfter(after), Checkpoint(directory / "run")], **settings).fit(silo)
    return silo


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_run_in_two_parts_is_a_run_in_one(tmp_path, private, after) -> None:
    settings = {**(PRIVATE if private else {}), "server_optimizer": "adam"}
    whole = learner(**settings).fit(federation(budget=BUDGET if private else None))
    stopped(tmp_path, after, private=private, server_optimizer="adam").close()
    silo = federation(tmp_path / "ledger.db", budget=BUDGET if private else None, done=after)
    gone_on = resume(tmp_path / "run", learner(Checkpoint(tmp_path / "run"), **settings), silo)
    np.testing.assert_array_equal(gone_on.parameters_, whole.parameters_)
    assert [row["round"] for row in gone_on.history_] == [1, 2, 3, 4, 5, 6]
    same = [{name: row[name] for name in ("round", "update_norm", "clip", "epsilon")} for row in gone_on.history_]
    assert same == [{name: row[name] for name in ("round", "update_norm", "clip", "epsilon")} for row in whole.history_]
    assert len(silo.ledger.rounds()) == 6
    assert gone_on.epsilon_ == pytest.approx(whole.epsilon_)
    silo.close()
    assert verify(tmp_path / "ledger.db").ok


def test_through_the_real_protocol_as_well(tmp_path) -> None:
    whole = learner(rounds=3).fit(federation(mode="secure"))
    silo = federation(tmp_path / "ledger.db", mode="secure")
    learner([StopAfter(2), Checkpoint(tmp_path / "run")], rounds=3).fit(silo)
    silo.close()
    again = federation(tmp_path / "ledger.db", mode="secure")
    gone_on = resume(tmp_path / "run", learner(rounds=3), again)
    np.testing.assert_array_equal(gone_on.parameters_, whole.parameters_)


@pytest.mark.parametrize("after", [1, 3])
def test_the_other_learner_goes_on_as_well(tmp_path, after) -> None:
    """DP-SGD over records: momentum and averaged weights are of the state; no record is drawn or charged twice."""

    def sgd(callbacks: object = None) -> FederatedSGD:
        settings = {"learning_rate": 0.5, "momentum": 0.9, "averaging": 0.5, "expected_records": 240}
        return FederatedSGD(model(), rounds=5, noise_multiplier=30.0, callbacks=callbacks, **settings)

    budget = Budget(8.0, 1e-5)
    whole = sgd().fit(federation(budget=budget))
    silo = federation(tmp_path / "ledger.db", budget=budget)
    sgd([StopAfter(after), Checkpoint(tmp_path / "run")]).fit(silo)
    silo.close()
    silo = federation(tmp_path / "ledger.db", budget=budget, done=after)
    gone_on = resume(tmp_path / "run", sgd(Checkpoint(tmp_path / "run")), silo)
    np.testing.assert_array_equal(gone_on.parameters_, whole.parameters_)
    assert len(silo.ledger.rounds()) == 5
    assert [row["round"] for row in gone_on.history_] == [1, 2, 3, 4, 5]


def test_a_run_can_go_on_twice_and_from_an_earlier_checkpoint(tmp_path) -> None:
    stopped(tmp_path, 2).close()
    silo = federation(tmp_path / "ledger.db", budget=BUDGET, done=2)
    resume(tmp_path / "run", learner([StopAfter(4), Checkpoint(tmp_path / "run")], **PRIVATE), silo)
    silo.close()
    silo = federation(tmp_path / "ledger.db", budget=BUDGET, done=4)
    gone_on = resume(tmp_path / "run", learner(**PRIVATE), silo)
    np.testing.assert_array_equal(gone_on.parameters_, learner(**PRIVATE).fit(federation(budget=BUDGET)).parameters_)
    assert len(silo.ledger.rounds()) == 6
    with pytest.warns(UserWarning, match=r"3 release\(s\) were charged after the checkpoint, by entries"):
        resume(tmp_path / "run" / "round-000003.json", learner(StopAfter(4), **PRIVATE), silo)


def test_a_finished_run_that_goes_on_does_nothing_more(tmp_path) -> None:
    silo = federation(tmp_path / "ledger.db", budget=BUDGET)
    first = learner(Checkpoint(tmp_path / "run"), **PRIVATE).fit(silo)
    again = resume(tmp_path / "run", learner(**PRIVATE), silo)
    np.testing.assert_array_equal(again.parameters_, first.parameters_)
    assert len(silo.ledger.rounds()) == 6


def test_the_rest_of_the_budget_is_spread_over_the_rest_of_the_rounds(tmp_path) -> None:
    silo = federation(tmp_path / "ledger.db", budget=BUDGET)
    learner([StopAfter(2), Checkpoint(tmp_path / "run")], clip=0.5).fit(silo)
    assert silo.remaining_share == pytest.approx(4 / 6, rel=1e-6)
    resume(tmp_path / "run", learner(clip=0.5), silo)
    assert silo.remaining_share == pytest.approx(0.0, abs=1e-6)
    charges = [record.plan.charge("server").mu2 for record in silo.ledger.rounds()]
    assert charges == pytest.approx([charges[0]] * 6, rel=1e-6)


def test_early_stopping_goes_on_where_it_was(tmp_path) -> None:
    def callbacks(directory: Path | None, *more: object) -> list:
        stopper = EarlyStopping(patience=3, min_delta=0.01)
        return [stopper, *more, *([] if directory is None else [Checkpoint(directory, also=stopper)])]

    hold_out = HoldOut(0.3)
    whole = callbacks(None)
    first = learner(whole, rounds=40).fit(hold_out.training(federation()))
    silo = hold_out.training(federation(tmp_path / "ledger.db"))
    learner(callbacks(tmp_path / "run", StopAfter(first.n_rounds_ - 2)), rounds=40).fit(silo)
    rest = callbacks(tmp_path / "run")
    second = resume(tmp_path / "run", learner(rest, rounds=40), silo)
    assert second.n_rounds_ == first.n_rounds_ < 40
    assert (rest[0].best_round_, rest[0].waited_) == (whole[0].best_round_, whole[0].waited_)
    np.testing.assert_array_equal(second.parameters_, first.parameters_)
    with pytest.raises(UsageError, match="give it the same callbacks"):
        resume(tmp_path / "run", learner(Checkpoint(tmp_path / "run"), rounds=40), silo)


# --- what is written --------------------------------------------------------------------------------------------------


def test_what_is_in_a_checkpoint(tmp_path) -> None:
    silo = stopped(tmp_path, 3)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [f"round-{round:06d}.{kind}" for round in (2, 3) for kind in ("json", "safetensors")]
    told = json.loads((tmp_path / "run" / "round-000003.json").read_text())
    assert (told["format"], told["version"], told["round"]) == ("privfed-checkpoint", 1, 3)
    assert told["ledger"]["identifier"] == silo.ledger.identifier
    assert told["ledger"]["budget"] == BUDGET.as_dict()
    notes = [note for note in silo.ledger.notes() if "checkpoint" in note.text]
    assert [note.facts["round"] for note in notes] == [1.0, 2.0, 3.0]
    assert notes[-1].facts["digest"] == told["digest"]
    saved = load_checkpoint(tmp_path / "run")
    assert saved.state.round == 3
    assert not saved.state.parameters.flags.writeable
    assert saved.state.releases == ()
    assert "parameters" not in repr(saved.state)


def test_checkpoints_come_every_so_often_and_at_the_end(tmp_path) -> None:
    learner(Checkpoint(tmp_path / "run", every=4, keep=9)).fit(federation())
    assert [load_checkpoint(path).state.round for path in sorted((tmp_path / "run").glob("*.json"))] == [4, 6]
    learner([Checkpoint(tmp_path / "other", every=4, keep=9), StopAfter(5)]).fit(federation())
    assert [load_checkpoint(path).state.round for path in sorted((tmp_path / "other").glob("*.json"))] == [4, 5]


def test_a_run_that_fails_saves_its_last_round(tmp_path) -> None:
    def fails(state) -> None:
        if state.round == 3:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        learner([Checkpoint(tmp_path / "run", every=100), fails]).fit(federation())
    assert load_checkpoint(tmp_path / "run").state.round == 3


def test_parameters_that_a_callback_chose_at_the_end_are_no_state_of_the_run(tmp_path) -> None:
    class Chooses(Callback):
        def on_train_end(self, state: TrainingState):
            from privfed.learners.neural.state import Verdict

            return Verdict(parameters=np.full(state.parameters.shape, 9.0))

    fitted = learner([Chooses(), Checkpoint(tmp_path / "run", every=100)]).fit(federation())
    assert (fitted.parameters_ == 9.0).all()
    assert not (load_checkpoint(tmp_path / "run").state.parameters == 9.0).any()


def test_another_run_does_not_write_into_a_directory_of_checkpoints(tmp_path) -> None:
    stopped(tmp_path, 2).close()
    with pytest.raises(UsageError, match="checkpoints of another run"):
        learner(Checkpoint(tmp_path / "run")).fit(federation())


def test_figures_that_json_does_not_have(tmp_path) -> None:
    class Odd(Callback):
        def on_round_end(self, state: TrainingState):
            from privfed.learners.neural.state import Verdict

            return Verdict(metrics={"nan": math.nan, "scalar": np.float32(0.5), "word": "x", "whole": np.int64(3)})

    learner([Odd(), Checkpoint(tmp_path / "run")], rounds=1).fit(federation())
    row = load_checkpoint(tmp_path / "run").state.history[0]
    assert (row["nan"], row["scalar"], row["word"], row["whole"]) == (None, 0.5, "x", 3)


# --- what is refused --------------------------------------------------------------------------------------------------


def edited(path: Path, change) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda told: told.update(round=5), "not as it was written"),
        (lambda told: told.update(seed=told["seed"] + 1), "not as it was written"),
        (lambda told: told["settings"].update(clip=99.0), "not as it was written"),
        (lambda told: told["ledger"].update(entries=1), "not as it was written"),
        (lambda told: told["history"].clear(), "not as it was written"),
        (lambda told: told.update(version=2), "expected 'privfed-checkpoint' version 1"),
        (lambda told: told.update(format="pickle"), "expected 'privfed-checkpoint'"),
        (lambda told: told.update(more=1), "unknown field"),
        (lambda told: told.pop("seed"), "missing required field"),
        (lambda told: told.update(seed="x"), "Expected `int`"),
    ],
)
def test_an_edited_checkpoint_is_refused(tmp_path, change, match) -> None:
    silo = stopped(tmp_path, 2)
    spent = silo.remaining_share
    edited(tmp_path / "run" / "round-000002.json", change)
    with pytest.raises(CheckpointError, match=match):
        resume(tmp_path / "run", learner(**PRIVATE), silo)
    assert silo.remaining_share == spent


def test_a_forger_who_knows_the_format_is_found_by_the_ledger(tmp_path) -> None:
    """The digest is right, for it can be worked out by anybody; the ledger knows no such checkpoint."""
    silo = stopped(tmp_path, 2)
    path = tmp_path / "run" / "round-000002.json"
    import msgspec

    from privfed.learners.neural.checkpoints.file import CheckpointFile

    file = msgspec.json.decode(path.read_bytes(), type=CheckpointFile)
    forged = msgspec.structs.replace(file, seed=file.seed + 1)
    forged = msgspec.structs.replace(forged, digest=forged.own_digest())
    path.write_bytes(msgspec.json.encode(forged))
    assert load_checkpoint(path).state.seed == file.seed + 1
    with pytest.raises(CheckpointError, match="the ledger knows no such checkpoint"):
        resume(path, learner(**PRIVATE), silo)


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "empty", "gone", "another round's"])
def test_damaged_arrays_are_refused(tmp_path, damage) -> None:
    silo = stopped(tmp_path, 3)
    path = tmp_path / "run" / "round-000003.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    written = {
        "flipped": bytes(data),
        "cut": bytes(data[:-8]),
        "longer": bytes(data) + b"x",
        "empty": b"",
        "gone": b"",
        "another round's": (tmp_path / "run" / "round-000002.safetensors").read_bytes(),
    }[damage]
    path.unlink() if damage == "gone" else path.write_bytes(written)
    with pytest.raises(CheckpointError, match="arrays of checkpoint"):
        resume(tmp_path / "run", learner(**PRIVATE), silo)
    assert load_checkpoint(tmp_path / "run" / "round-000002.json").state.round == 2  # the one before is whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_the_json_gets_through(tmp_path_factory, whole, data) -> None:
    text = whole.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "noise"]))
    at = data.draw(st.integers(0, len(text) - 1))
    if kind == "flip":
        damaged = text[:at] + bytes([text[at] ^ data.draw(st.integers(1, 255))]) + text[at + 1 :]
    elif kind == "cut":
        damaged = text[:at]
    elif kind == "insert":
        damaged = text[:at] + data.draw(st.binary(min_size=1, max_size=8)) + text[at:]
    else:
        damaged = data.draw(st.binary(max_size=200))
    directory = tmp_path_factory.mktemp("damaged")
    path = directory / whole.name
    path.write_bytes(damaged)
    path.with_suffix(".safetensors").write_bytes(whole.with_suffix(".safetensors").read_bytes())
    try:
        found = load_checkpoint(path)
    except CheckpointError:
        return
    assert found.digest == load_checkpoint(whole).digest  # white space, at most


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    stopped(directory, 2).close()
    return directory / "run" / "round-000002.json"


def test_deep_json_is_refused(tmp_path) -> None:
    path = tmp_path / "round-000001.json"
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


def test_other_ledgers_budgets_and_learners_are_refused(tmp_path) -> None:
    silo = stopped(tmp_path, 2)
    for other, match in (
        (federation(tmp_path / "other.db", budget=BUDGET), "did not pay for this run"),
        (federation(budget=BUDGET), "did not pay for this run"),
        (federation(budget=Budget(9.0, 1e-5, unit="client")), "has budget"),
        (federation(), "has budget none"),
    ):
        with pytest.raises(CheckpointError, match=match):
            resume(tmp_path / "run", learner(**PRIVATE), other)
        assert other.ledger.rounds() == []
    with pytest.raises(UsageError, match="run had training"):
        resume(tmp_path / "run", learner(local_epochs=3, **PRIVATE), silo)
    with pytest.raises(UsageError, match="cannot resume"):
        resume(tmp_path / "run", object(), silo)
    assert len(silo.ledger.rounds()) == 2


def test_a_ledger_that_lost_what_the_run_spent_is_refused(tmp_path) -> None:
    """A copy of the ledger from before the rounds: going on would spend their part twice."""
    silo = federation(tmp_path / "ledger.db", budget=BUDGET)
    learner([StopAfter(1), Checkpoint(tmp_path / "run")], **PRIVATE).fit(silo)
    silo.close()
    backup = (tmp_path / "ledger.db").read_bytes()
    silo = federation(tmp_path / "ledger.db", budget=BUDGET, done=1)
    resume(tmp_path / "run", learner([StopAfter(3), Checkpoint(tmp_path / "run")], **PRIVATE), silo)
    silo.close()
    for left_over in tmp_path.glob("ledger.db-*"):
        left_over.unlink()
    (tmp_path / "ledger.db").write_bytes(backup)
    old = federation(tmp_path / "ledger.db", budget=BUDGET)
    assert len(old.ledger.rounds()) == 1
    with pytest.raises(CheckpointError, match="did not pay for this run"):
        resume(tmp_path / "run", learner(**PRIVATE), old)


def test_without_a_budget_any_ledger_will_do(tmp_path) -> None:
    stopped(tmp_path, 2, private=False).close()
    gone_on = resume(tmp_path / "run", learner(), federation(done=2))
    np.testing.assert_array_equal(gone_on.parameters_, learner().fit(federation()).parameters_)


def test_a_directory_without_a_checkpoint_says_how_to_begin(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: begin a run"):
        resume(tmp_path, learner(), federation())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "round-000001.json")


def test_a_later_charge_of_somebody_else_is_told_and_not_refused(tmp_path) -> None:
    from privfed import Count

    silo = stopped(tmp_path, 2)
    silo.release(Count(), share=0.01)
    with pytest.warns(UserWarning, match=r"1 release\(s\) were charged after"):
        check_ledger(load_checkpoint(tmp_path / "run"), silo)


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"also": [3]}, {"also": [StopAfter(1)]}])
def test_arguments_of_other_kinds_are_refused(tmp_path, options) -> None:
    with pytest.raises(UsageError, match=r"expected"):
        Checkpoint(tmp_path, **options)


# --- memories at home -------------------------------------------------------------------------------------------------


class TestStoredMemory:
    @pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
    def test_nobody_but_its_owner_reads_it(self, tmp_path) -> None:
        """Whatever the umask says, and from before the first byte: what a client keeps at home is of its rows."""
        home, modes = tmp_path / "home", []

        def look(step: str) -> None:
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in home.iterdir())

        before = os.umask(0)
        try:
            memory = StoredMemory(home, on_step=look)
            memory["head"] = np.ones(3)
            memory.mark("run", 1)
            memory["head"] = np.zeros(3)
        finally:
            os.umask(before)
        assert len(modes) > 6
        assert set(modes) == {0o600}
        assert stat.S_IMODE(home.stat().st_mode) == 0o700

    @pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
    def test_what_an_earlier_version_left_open_is_closed_and_goes_on(self, tmp_path) -> None:
        home = tmp_path / "home"
        StoredMemory(home)["head"] = np.arange(3.0)
        StoredMemory(home).mark("run", 1)
        unfinished = home / "memory.safetensors.unfinished"
        unfinished.write_bytes(b"of a crash")
        home.chmod(0o755)
        for path in home.iterdir():
            path.chmod(0o644)
        memory = StoredMemory(home)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}
        np.testing.assert_array_equal(memory["head"], np.arange(3.0))
        memory["head"] = np.ones(1)
        assert not unfinished.exists()
        memory.rewind("run", 1)
        np.testing.assert_array_equal(StoredMemory(home)["head"], np.arange(3.0))

    def test_arrays_of_every_kind_come_back_to_the_bit(self, tmp_path) -> None:
        memory = StoredMemory(tmp_path / "home")
        rng = np.random.default_rng(0)
        arrays = {
            "f8": rng.normal(size=(3, 4)),
            "f4": rng.normal(size=5).astype("f4"),
            "f2": rng.normal(size=5).astype("f2"),
            "i8": rng.integers(-9, 9, (2, 2)),
            "u1": np.arange(5, dtype="u1"),
            "flags": np.array([True, False]),
            "big-endian": rng.normal(size=3).astype(">f8"),
            "fortran": np.asfortranarray(rng.normal(size=(2, 3))),
            "a point": np.array(1.5),
            "none": np.empty((0, 3)),
            "../name: with [odd] signs \u00e9": np.ones(1),
            "__metadata__": np.ones(2),
        }
        memory.update(arrays)
        again = StoredMemory(tmp_path / "home")
        assert sorted(again) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array)
            assert again[name].dtype == array.dtype.newbyteorder("=")
            assert not again[name].flags.writeable
        assert [path.name for path in (tmp_path / "home").iterdir()] == ["memory.safetensors"]

    def test_it_is_a_mapping(self, tmp_path) -> None:
        memory = StoredMemory(tmp_path)
        memory["a"], memory["b"] = np.ones(2), np.zeros(1)
        del memory["a"]
        assert list(StoredMemory(tmp_path)) == list(memory) == ["b"]
        assert memory.pop("b").tolist() == [0.0]
        assert len(StoredMemory(tmp_path)) == 0
        with pytest.raises(KeyError):
            del memory["a"]
        with pytest.raises(KeyError):
            memory["a"]
        assert repr(memory) == "<StoredMemory of 0 arrays>"

    def test_what_cannot_be_kept_leaves_everything_as_it_was(self, tmp_path) -> None:
        memory = StoredMemory(tmp_path)
        memory["a"] = np.ones(2)
        for bad in (
            {"b": np.array(["text"])},
            {"b": np.array([object()])},
            {"b": np.ones(1, dtype=complex)},
            {3: np.ones(1)},
        ):
            with pytest.raises(UsageError, match=r"array|names"):
                memory.update(bad)
        assert list(memory) == list(StoredMemory(tmp_path)) == ["a"]

    @pytest.mark.parametrize("step", [".safetensors:written", ".safetensors:synced", ".safetensors:renamed"])
    def test_a_write_is_whole_or_not_at_all(self, tmp_path, step) -> None:
        memory = StoredMemory(tmp_path)
        memory.update({"a": np.ones(2), "b": np.ones(2)})

        def fails(name: str) -> None:
            if name == step:
                raise OSError("disk full")

        broken = StoredMemory(tmp_path, on_step=fails)
        with pytest.raises(OSError, match="disk full"):
            broken.update({"a": np.zeros(2), "b": np.zeros(2)})
        after = StoredMemory(tmp_path)
        expected = 0.0 if step.endswith("renamed") else 1.0
        assert {float(after[name][0]) for name in ("a", "b")} == {expected}
        after["a"] = np.full(2, 5.0)
        assert StoredMemory(tmp_path)["a"][0] == 5.0

    def test_marks(self, tmp_path) -> None:
        memory = StoredMemory(tmp_path, keep=2)
        for round in range(1, 6):
            memory["a"] = np.full(1, float(round))
            memory.mark("run", round)
        memory.rewind("run", 4)
        assert StoredMemory(tmp_path)["a"][0] == memory["a"][0] == 4.0
        with pytest.raises(UsageError, match="nothing was marked after round 3"):
            memory.rewind("run", 3)
        with pytest.raises(UsageError, match="nothing was marked"):
            memory.rewind("other", 4)
        assert memory["a"][0] == 4.0
        memory.mark("other", 1)
        with pytest.raises(UsageError, match="nothing was marked"):
            memory.rewind("run", 4)
        for name in ("", "a/b", "..", "x" * 65):
            with pytest.raises(UsageError, match="run is"):
                memory.mark(name, 1)

    def test_damage_is_found(self, tmp_path) -> None:
        memory = StoredMemory(tmp_path)
        memory["a"] = np.ones(100)
        path = tmp_path / "memory.safetensors"
        for damaged in (path.read_bytes()[:-9], b"", b"\x80\x05pickle", b"\xff" * 64):
            path.write_bytes(damaged)
            with pytest.raises(UsageError, match="memory at"):
                StoredMemory(tmp_path)
        save = pytest.importorskip("safetensors.numpy").save
        path.write_bytes(save({"foreign": np.ones(1)}))
        with pytest.raises(UsageError, match="not written by privfed"):
            StoredMemory(tmp_path)

    def test_it_is_a_home_for_a_federation(self, tmp_path) -> None:
        """Control variates at home: two processes' worth of rounds are those of one."""
        names = [f"client-{index:02d}" for index in range(4)]
        whole = learner(control_variates=True).fit(federation())
        for part, after in ((0, 3), (1, 6)):
            homes = {name: StoredMemory(tmp_path / name) for name in names}
            silo = federation(tmp_path / "ledger.db", memories=homes)
            checkpoint = Checkpoint(tmp_path / "run", memories=homes)
            if part == 0:
                learner([StopAfter(after), checkpoint], control_variates=True).fit(silo)
            else:
                fitted = resume(tmp_path / "run", learner(checkpoint, control_variates=True), silo)
            silo.close()
        np.testing.assert_array_equal(fitted.parameters_, whole.parameters_)

    def test_clients_that_are_a_round_ahead_go_back_with_the_model(self, tmp_path) -> None:
        """Round 3 is over at the clients, and lost at the server: SCAFFOLD's variates would not fit round 2's model."""

        def lost(state) -> None:
            if state.round == 3:
                raise KeyboardInterrupt

        names = [f"client-{index:02d}" for index in range(4)]
        whole = learner(control_variates=True, rounds=4).fit(federation())
        homes = {name: StoredMemory(tmp_path / name) for name in names}
        saving = Checkpoint(tmp_path / "run", memories=homes)
        with pytest.raises(KeyboardInterrupt):
            learner([lost, saving], control_variates=True, rounds=4).fit(federation(memories=homes))
        assert load_checkpoint(tmp_path / "run").state.round == 2
        homes = {name: StoredMemory(tmp_path / name) for name in names}
        saving = Checkpoint(tmp_path / "run", memories=homes)
        fitted = resume(tmp_path / "run", learner(saving, control_variates=True, rounds=4), federation(memories=homes))
        np.testing.assert_array_equal(fitted.parameters_, whole.parameters_)

    def test_memories_that_were_marked_are_missed(self, tmp_path) -> None:
        homes = {name: StoredMemory(tmp_path / name) for name in ("client-00", "client-01")}
        learner(Checkpoint(tmp_path / "run", memories=homes), rounds=1).fit(federation(memories=homes))
        forgetful = federation()
        with pytest.warns(UserWarning, match="they may be a round ahead"):
            resume(tmp_path / "run", learner(Checkpoint(tmp_path / "run"), rounds=1), forgetful)


def test_arrays_in_files_are_not_executed() -> None:
    for data in (b"\x80\x04\x95.", b"PK\x03\x04", b"", b"\x00" * 8):
        with pytest.raises(UsageError, match="no whole safetensors file"):
            decoded_arrays(data)
    np.testing.assert_array_equal(decoded_arrays(encoded_arrays({"x": np.arange(3)}))["x"], np.arange(3))


def test_leftovers_of_a_crash_do_no_harm(tmp_path) -> None:
    path = tmp_path / "file.json"
    path.with_name("file.json.unfinished").write_bytes(b"half")
    write_whole(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [one.name for one in tmp_path.iterdir()] == ["file.json"]


# --- what is refused before anything is spent -------------------------------------------------------------------------


def test_a_ledger_in_memory_is_refused_under_a_budget_and_before_it_is_charged(tmp_path) -> None:
    silo = federation(budget=BUDGET)
    with pytest.raises(UsageError, match=r"ledger is in memory.*run\.db"):
        learner(Checkpoint(tmp_path / "run"), **PRIVATE).fit(silo)
    assert not silo.ledger.rounds()
    assert not (tmp_path / "run").exists()


def test_without_a_budget_a_ledger_in_memory_will_do(tmp_path) -> None:
    learner(Checkpoint(tmp_path / "run"), rounds=1).fit(federation())
    assert load_checkpoint(tmp_path / "run").state.round == 1


@pytest.mark.parametrize("where", ["file", "file/run"])
def test_a_file_in_the_place_of_the_directory_is_refused_before_anything_is_charged(tmp_path, where) -> None:
    (tmp_path / "file").write_text("mine")
    silo = federation(tmp_path / "ledger.db", budget=BUDGET)
    with pytest.raises(UsageError, match="is no directory that can be written to"):
        learner(Checkpoint(tmp_path / where), **PRIVATE).fit(silo)
    assert not silo.ledger.rounds()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_another_run_is_refused_before_records_are_counted(tmp_path) -> None:
    stopped(tmp_path, private=False)
    silo = federation(tmp_path / "other.db", budget=Budget(8.0, 1e-5))
    with pytest.raises(UsageError, match="checkpoints of another run"):
        FederatedSGD(model(), rounds=2, callbacks=Checkpoint(tmp_path / "run")).fit(silo)
    assert not silo.ledger.rounds()
