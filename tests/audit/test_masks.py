"""The mask lint: what is sound passes, every planted fault is found by the checks named for it and by no others."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

from privfed.audit.masks import CHECKS, Adapter, NotExposed, Refused, Ring, Sa1, Setting, lint_masks
from privfed.errors import UsageError
from tests.audit.faulty_masks import FAULTS, CutSeed, FoldedSeed
from tests.audit.sound_masks import Sound, reseed

WITHOUT_SEEDS = [name for name in CHECKS if name != "seed_entropy"]  # the slow one


def lint(adapter: type[Adapter], *, full: bool = False, **options: Any) -> Any:
    reseed(1)
    return lint_masks(adapter, checks=None if full else WITHOUT_SEEDS, **{"seeds": 5_000, **options})


@pytest.mark.parametrize(("fault", "expected"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_by_the_checks_named_for_it_and_by_no_others(
    fault: type[Sound], expected: set[str]
) -> None:
    report = lint(fault, full="seed_entropy" in expected)
    assert set(report.failed) == expected
    assert all(report[check].status == "failed" for check in expected)
    assert not report.ok


def test_a_sound_implementation_passes_every_check() -> None:
    report = lint(Sound, full=True)
    assert report.ok
    assert report.not_examined == ()
    assert [finding.check for finding in report.findings] == list(CHECKS)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_the_protocol_passes_every_check_in_every_ring(bits: int) -> None:
    class OfWidth(Sa1):
        pass

    OfWidth.bits = bits
    report = lint_masks(OfWidth, checks=WITHOUT_SEEDS)
    assert report.failed == ()
    assert report.not_examined == ()


def test_the_seeds_of_the_protocol_do_not_collide() -> None:
    report = lint_masks(Sa1, checks=["seed_entropy"], seeds=20_000)
    assert report.ok
    assert "52897 seeds of 256 bits gave as many masks" in report["seed_entropy"].what


def test_what_the_adapter_of_the_protocol_computes_twice_is_what_its_client_adds() -> None:
    """The pair masks that the lint looks at are in the masked vector: with the self masks they make it up."""
    adapter = Sa1()
    adapter.set_up(Setting(clients=4, threshold=3, length=100))
    pairs = [sum(adapter.pair_mask(client, peer, 1) for peer in range(4) if peer != client) for client in range(4)]
    masked = [adapter.masked(client, 1, np.zeros(100, np.int64), {}) for client in range(4)]
    self_masks = [vector - pair for vector, pair in zip(masked, pairs, strict=True)]
    assert sum(pairs).tolist() == [0] * 100
    assert sum(self_masks).tolist() == sum(masked).tolist()
    assert all(mask.any() for mask in self_masks)
    assert adapter.total(1).tolist() == [0] * 100


def test_a_later_round_can_be_masked_although_the_one_before_was_never_closed() -> None:
    adapter = Sa1()
    adapter.set_up(Setting(clients=4, threshold=3))
    first, second = (adapter.masked(0, round, np.zeros(8, np.int64), {}) for round in (1, 2))
    assert first.tolist() != second.tolist()
    with pytest.raises(Refused):
        adapter.masked(0, 2, np.zeros(8, np.int64), {})


class Bare(Adapter):
    """The least that an adapter can offer."""

    name: ClassVar[str] = "bare"

    def set_up(self, setting: Setting) -> None:
        self.length = setting.length

    @property
    def ring(self) -> Ring:
        return Ring(1 << 32, 1 << 20)

    def masked(self, client: int, round: int, values: Any, side: Any) -> Any:
        return np.frombuffer(np.random.default_rng([client, round]).bytes(4 * len(values)), "<u4")


def test_what_an_adapter_does_not_expose_is_not_examined_and_never_passed() -> None:
    report = lint(Bare, full=True)
    for check in ("seed_entropy", "full_range", "both_shares", "side_values", "silent_wrap", "shared_secret"):
        assert report[check].status == "not examined"
        assert "does not expose" in report[check].what
    assert report["byte_lanes"].status == "passed"
    assert "mask_reuse" in report.failed  # its masks are the same after every set-up


def test_every_optional_method_says_that_it_is_not_exposed() -> None:
    adapter = Bare()
    calls = {
        "total": (1,), "wire": (0,), "public_keys": (0,), "secrets": (0,), "pair_mask": (0, 1, 1),
        "expand": (b"", 1, 256), "ring_for": (2,),
    }  # fmt: skip
    for name, arguments in calls.items():
        with pytest.raises(NotExposed, match=name):
            getattr(adapter, name)(*arguments)
    with pytest.raises(NotExposed, match="reveal"):
        adapter.reveal(0, 1, alive=(), dropped=())


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        (np.full(40_960, 1 << 32, np.int64), "outside of 0 to 4294967295"),
        (np.full(40_960, -1, np.int64), "outside of 0 to"),
        (np.zeros((2, 2), np.int64), "expected a vector of integers"),
        ("nonsense", "expected a vector of integers"),
    ],
)
def test_a_broken_adapter_is_an_error_not_a_pass(vector: Any, complaint: str) -> None:
    class Broken(Bare):
        def masked(self, client: int, round: int, values: Any, side: Any) -> Any:
            return vector

    report = lint_masks(Broken, checks=["byte_lanes"])
    assert report["byte_lanes"].status == "error"
    assert complaint in report["byte_lanes"].what
    assert not report.ok


def test_code_that_raises_is_an_error_and_the_other_checks_go_on() -> None:
    class Raising(Bare):
        def wire(self, client: int) -> Any:
            raise ZeroDivisionError("in the code under audit")

    report = lint_masks(Raising, checks=["side_values", "byte_lanes"])
    assert report["side_values"].status == "error"
    assert "ZeroDivisionError" in report["side_values"].what
    assert report["byte_lanes"].status == "passed"
    assert report.failed == ("side_values",)


def test_an_implementation_that_refuses_everything_does_not_pass() -> None:
    class Refusing(Bare):
        def set_up(self, setting: Setting) -> None:
            raise Refused("never")

    report = lint(Refusing)
    assert not any(finding.status == "passed" for finding in report.findings if finding.check != "set_up_loss")
    assert report["byte_lanes"].status == "error"


def test_a_client_that_reveals_nothing_does_not_pass_the_probe_for_shares() -> None:
    class Mute(Sound):
        def reveal(self, *arguments: Any, **options: Any) -> Any:
            raise Refused("never")

    assert lint_masks(Mute, checks=["both_shares"])["both_shares"].status == "failed"


def test_the_random_search_finds_a_cut_seed_and_the_structured_one_a_folded_seed() -> None:
    class CutOf128(CutSeed):
        seed_bytes: ClassVar[int] = 16

    reseed(1)
    assert lint_masks(FoldedSeed, checks=["seed_entropy"], seeds=2)["seed_entropy"].status == "failed"
    assert lint_masks(CutOf128, checks=["seed_entropy"], seeds=2)["seed_entropy"].status == "passed"
    assert "random seeds" in lint_masks(CutOf128, checks=["seed_entropy"], seeds=60_000)["seed_entropy"].what


def test_sound_code_is_rarely_accused_even_at_a_loose_level() -> None:
    """At a false-alarm rate of one in ten, 10 independent lints: more than 5 accusations have a chance of 2e-4."""
    statistical = ["scalar_mask", "byte_lanes", "distinct_masks", "mask_reuse", "transcript_independence"]
    accused = 0
    for seed in range(10):
        reseed(seed)
        accused += not lint_masks(Sound, checks=statistical, false_alarm=0.1, random_state=seed, clients=4).ok
    assert accused <= 5


def test_the_report_is_json_and_findings_are_reached_by_name() -> None:
    report = lint_masks(Sound, checks=["byte_lanes", "silent_wrap"])
    data = json.loads(json.dumps(report.as_dict()))
    assert data["ok"] is True
    assert data["implementation"] == "sound"
    assert [finding["check"] for finding in data["findings"]] == ["byte_lanes", "silent_wrap"]
    assert data["findings"][0]["tests"] == 20
    with pytest.raises(KeyError, match="no check 'other'"):
        report["other"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"clients": 3}, "expected 4 to 100"),
        ({"clients": 101}, "expected 4 to 100"),
        ({"false_alarm": 0.0}, "false_alarm"),
        ({"false_alarm": 0.5}, "false_alarm"),
        ({"seeds": 1}, "at least 2"),
        ({"checks": ["byte_lane"]}, r"unknown checks \['byte_lane'\]: choose from"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        lint_masks(Sound, **options)


def test_progress_is_told_in_order() -> None:
    told: list[str] = []
    lint_masks(Bare, checks=["full_range", "float_masks"], progress=told.append)
    assert told == ["float_masks", "full_range"]
