"""Rows of a memory-mapped file: the same fit, part by part, and never all of them in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
import warnings

import numpy as np
import pytest

from privfed import LocalFederation
from privfed.errors import DataError
from privfed.learners.mixture import GaussianMixture
from privfed.mechanism import mapped
from privfed.mechanism.mapped import by_parts, is_mapped, parts, slices
from privfed.statistics.mixture import MixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import clusters


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "rows.npy"
    np.save(found, clusters(n=3000, d=3, K=3, seed=4))
    return found


def test_only_what_is_mapped_read_only_counts(path):
    assert is_mapped(np.load(path, mmap_mode="r"))
    assert is_mapped(np.asarray(np.load(path, mmap_mode="r"))[10:200])
    assert not is_mapped(np.load(path, mmap_mode="r+"))
    assert not is_mapped(np.load(path, mmap_mode="c"))  # its pages may hold changes that are nowhere else
    assert not is_mapped(np.load(path))
    assert not is_mapped(np.frombuffer(b"12345678"))


def test_parts_are_the_rows_in_order(path, monkeypatch):
    monkeypatch.setattr(mapped, "PART", 700)
    rows, there = np.load(path), np.load(path, mmap_mode="r")
    found = [part.copy() for part in parts(there)]
    assert [len(part) for part in found] == [700, 700, 700, 700, 200]
    np.testing.assert_array_equal(np.concatenate(found), rows)
    assert [len(part) for part in parts(rows)] == [3000]
    for source in (rows, there):
        found = [part.copy() for part in slices(source, 301)]
        assert [len(part) for part in found] == [301] * 9 + [291]
        np.testing.assert_array_equal(np.concatenate(found), rows)
        assert [len(part) for part in slices(source[:0], 64)] == [0]
    for source in (rows, there):
        np.testing.assert_array_equal(by_parts(lambda part: part.sum(axis=1), source), rows.sum(axis=1))


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_mapped_file_is_fitted_as_its_rows_are(path, kind, monkeypatch):
    monkeypatch.setattr(mapped, "PART", 512)
    rows = np.load(path)
    settings = {"covariance_type": kind, "random_state": 0, "tol": 1e-8, "max_iter": 300}
    expected = GaussianMixture(3, **settings).fit(rows)
    found = GaussianMixture(3, **settings).fit(np.load(path, mmap_mode="r"))
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-6)
    np.testing.assert_array_equal(found.predict(np.load(path, mmap_mode="r")), expected.predict(rows))
    assert found.score(rows) == pytest.approx(expected.score(rows))


def test_a_start_looks_at_rows_all_over_the_file(tmp_path):
    """A file sorted by cluster: its first rows alone would show one."""
    rows = np.concatenate([np.random.default_rng(0).normal(5.0 * k, 0.1, (30_000, 1)) for k in range(4)])
    np.save(tmp_path / "sorted.npy", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = GaussianMixture(4, random_state=0, max_iter=2).fit(np.load(tmp_path / "sorted.npy", mmap_mode="r"))
    np.testing.assert_allclose(sorted(found.means_[:, 0]), [0, 5, 10, 15], atol=0.05)


def sums_of(clients):
    """One E-step over a federation of `clients`, without noise."""
    model = MixtureModel.from_covariances([0.5, 0.5], [[-1.0] * 4, [1.0] * 4], np.ones((2, 4)), "diag")
    query = MixtureStatistics.of(model, Coordinates.shifted(np.zeros(4)), radius=100.0)
    with LocalFederation(clients, mode="trusted") as federation:
        return federation.release(query)


def test_a_client_reads_its_file_in_each_release_and_never_all_of_it(tmp_path):
    path, n = tmp_path / "client.npy", 1_000_000
    rows = np.tile(np.random.default_rng(0).standard_normal((1000, 4)), (n // 1000, 1))
    np.save(path, rows)
    expected = sums_of([rows[:600_000], rows[600_000:]])
    there = np.load(path, mmap_mode="r")
    tracemalloc.start()
    try:
        found = sums_of([there[:600_000], there[600_000:]])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for name, value in expected.values.items():
        np.testing.assert_array_equal(found[name], value)
    assert peak < 0.2 * rows.nbytes


def test_what_others_write_into_a_clients_file_is_checked_again(path):
    clients = {"steady": clusters(n=50, d=3, K=3, seed=1), "mapped": np.load(path, mmap_mode="r")}
    with LocalFederation(clients, mode="trusted") as federation:
        mixture = GaussianMixture(2, random_state=0, max_iter=2, tol=10.0, init_params="moments")
        mixture.fit(federation)
        np.load(path, mmap_mode="r+")[2_999, 1] = np.nan
        with pytest.raises(DataError, match=r"client 'mapped': 1 row\(s\) hold NaN"):
            mixture.fit(federation)
    with pytest.raises(DataError, match=r"client 'mapped': 1 row\(s\) hold NaN"):
        LocalFederation(clients)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are given back where the system can")
def test_memory_stays_below_the_file(tmp_path):
    path, megabytes = tmp_path / "large.npy", 64
    shape = (megabytes * 2**20 // 64, 8)
    rows = np.lib.format.open_memmap(path, "w+", np.float64, shape)
    rows[:] = np.tile(np.random.default_rng(0).standard_normal((2**14, 8)), (shape[0] // 2**14, 1))
    rows.flush()
    del rows
    program = """
        import re, sys, warnings
        from pathlib import Path
        import numpy as np
        from privfed.learners.mixture import GaussianMixture
        warnings.simplefilter("ignore")
        def peak():  # of this program alone: what getrusage tells may be its parent's
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
        before = peak()
        start = {"weights_init": [0.5, 0.5], "means_init": np.eye(2, 8), "precisions_init": np.ones((2, 8))}
        GaussianMixture(2, max_iter=1, covariance_type="diag", **start).fit(np.load(sys.argv[1], mmap_mode="r"))
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert float(done.stdout) < 0.6 * megabytes
