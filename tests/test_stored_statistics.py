"""Statistics are collected once for a network and its data, by whichever process comes first, and read by the rest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from autoprune import candidates as candidates_module
from autoprune.calibration import LayerStats, Need, StatsStore, collect, stats_digest
from autoprune.data import DataSplits, load_data
from autoprune.errors import ArtifactError
from autoprune.models import build_model
from autoprune.objective import Objective, ObjectiveSettings
from autoprune.seeding import seeded
from autoprune.tracing import trace

BOTH = frozenset(Need)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def collected(digits) -> dict[str, LayerStats]:
    model = network()
    return collect(model, trace(model, digits.example(), prove=False), digits.calibration.subset(slice(0, 40)), BOTH)


def network():
    with seeded(0):
        return build_model("digits_cnn", width=0.5)


def refuse(needs: frozenset[Need]) -> dict[str, LayerStats]:
    raise AssertionError(f"collected {' and '.join(sorted(needs))} again")


def digests(found: dict[Need, dict[str, LayerStats]]) -> dict[Need, str]:
    return {need: stats_digest(stats) for need, stats in sorted(found.items())}


def test_each_need_is_collected_once_and_read_bit_for_bit(tmp_path, collected):
    asked = []
    store = StatsStore(tmp_path, {"network": "a"})
    first = store.get([Need.MOMENTS], lambda needs: asked.append(needs) or collected)
    second = store.get(BOTH, lambda needs: asked.append(needs) or collected)
    assert asked == [{Need.MOMENTS}, {Need.GRADIENT}]
    assert digests(first) == {Need.MOMENTS: digests(second)[Need.MOMENTS]}
    again = StatsStore(tmp_path, {"network": "a"}).get(BOTH, refuse)
    assert digests(again) == digests(second)
    for name, stats in collected.items():
        if stats.covariance is not None:
            read = again[Need.MOMENTS][name]
            assert (read.samples, read.taylor) == (stats.samples, {})
            assert torch.equal(read.mean, stats.mean)
            assert torch.equal(read.covariance, stats.covariance)
        for key, sums in stats.taylor.items():
            assert torch.equal(again[Need.GRADIENT][name].taylor[key], sums)
            assert again[Need.GRADIENT][name].covariance is None


def test_other_facts_are_another_file(tmp_path, collected):
    store, other = (StatsStore(tmp_path, {"network": name}) for name in "ab")
    store.get(BOTH, lambda _: collected)
    assert {store.path(need) for need in Need}.isdisjoint(other.path(need) for need in Need)
    with pytest.raises(AssertionError, match="collected gradient and moments again"):
        other.get(BOTH, refuse)


@pytest.mark.parametrize("damage", ["short", "empty", "noise", "other file"])
def test_damaged_files_are_collected_again(tmp_path, collected, damage):
    store = StatsStore(tmp_path, {})
    before = digests(store.get(BOTH, lambda _: collected))
    path = store.path(Need.MOMENTS)
    whole = path.read_bytes()
    bad = {"short": whole[:-9], "empty": b"", "noise": b"\x07" * 300, "other file": b'{"version": 1}'}[damage]
    path.write_bytes(bad)
    asked = []
    after = store.get(BOTH, lambda needs: asked.append(needs) or collected)
    assert asked == [{Need.MOMENTS}]
    assert digests(after) == before
    assert path.read_bytes() == whole


def test_a_file_that_is_replaced_keeps_its_readers(tmp_path, collected):
    store = StatsStore(tmp_path, {})
    held = store.get(BOTH, lambda _: collected)
    before = digests(held)
    for need in Need:
        store.path(need).unlink()
    store.get(BOTH, lambda _: collected)
    assert digests(held) == before


def test_files_that_cannot_be_locked_are_written_all_the_same(tmp_path, collected, monkeypatch):
    def no_locks(self: FileLock, *_: object, **__: object) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    StatsStore(tmp_path, {}).get(BOTH, lambda _: collected)
    StatsStore(tmp_path, {}).get(BOTH, refuse)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, collected):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot write .*file.*choose another folder"):
        StatsStore(tmp_path / "file" / "cache", {}).get(BOTH, lambda _: collected)


def test_what_decides_the_statistics_decides_the_file(tmp_path, digits, monkeypatch):
    counted = []

    def counting(*args: object, **kwargs: object) -> dict[str, LayerStats]:
        counted.append(args[3])
        return collect(*args, **kwargs)

    monkeypatch.setattr(candidates_module, "collect", counting)
    base = ObjectiveSettings(calibration_samples=40)

    def stats(settings: ObjectiveSettings = base, data: DataSplits = digits, scale: float = 1.0) -> str:
        model = network()
        with torch.no_grad():
            model.fc2.bias.mul_(scale).add_(scale - 1)
        return stats_digest(Objective(model, data, settings=settings, cache_dir=tmp_path).stats(BOTH))

    first = stats()
    assert stats() == first
    assert stats(replace(base, precision="bfloat16")) == first  # plays no part
    assert len(counted) == 1
    fewer = replace(digits, calibration=digits.calibration.subset(slice(1, None)))
    for other in ({"settings": replace(base, seed=1)}, {"settings": replace(base, calibration_samples=41)}):
        assert stats(**other) != first
    assert stats(data=fewer) != first
    stats(scale=2.0)
    assert len(counted) == 5


SCRIPT = """
import sys
from dataclasses import replace
from autoprune import candidates
from autoprune.calibration import Need, stats_digest
from autoprune.objective import Objective, ObjectiveSettings
from autoprune.data import load_data
from autoprune.models import build_model
from autoprune.seeding import seeded

collect = candidates.collect
def counting(*args, **kwargs):
    with open(sys.argv[2], "a") as file:
        file.write("collected\\n")
    return collect(*args, **kwargs)
candidates.collect = counting
with seeded(0):
    model = build_model("digits_cnn", width=0.5)
settings = ObjectiveSettings(calibration_samples=40)
objective = Objective(model, load_data("digits"), settings=settings, cache_dir=sys.argv[1])
print(stats_digest(objective.stats(frozenset(Need))))
"""


def test_processes_that_start_together_collect_once(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cache"), str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed[0] == printed[1] != []
    assert log.read_text().split() == ["collected"]
    later = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.split()
    assert later == printed[0]
    assert log.read_text().split() == ["collected"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list its mappings")
def test_what_is_read_stays_in_the_file(tmp_path, collected):
    store = StatsStore(tmp_path, {})
    held = store.get([Need.MOMENTS], lambda _: collected)
    assert str(store.path(Need.MOMENTS)) in Path("/proc/self/maps").read_text()
    assert held
