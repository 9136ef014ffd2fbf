"""How samples are dealt out: exact sizes, proportions, seeds, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal, draw, moments, quotas
from autoprune.errors import DataError, SettingsError
from autoprune.seeding import generator


def numbered(counts: list[int]) -> Samples:
    """Samples whose input is their own number, so that each can be found again."""
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return Samples(torch.arange(len(y), dtype=torch.float32).view(-1, 1), y)


def numbers(data: DataSplits) -> dict[str, list[int]]:
    return {part: split.x[:, 0].int().tolist() for part, split in data.parts()}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.data(), st.integers(0, 1))
def test_quotas_are_exact_and_proportional(counts: list[int], data: st.DataObject, keep: int) -> None:
    room = sum(c - keep for c in counts)
    count = data.draw(st.integers(0, room + 3))
    taken = quotas(counts, count, keep=keep)
    if count > room:
        assert taken is None
        return
    assert taken is not None
    assert sum(taken) == count
    assert all(0 <= t <= c - keep for t, c in zip(taken, counts, strict=True))
    exact = [count * c / sum(counts) for c in counts]
    full = any(e > c - keep for e, c in zip(exact, counts, strict=True))
    assert full or all(abs(t - e) <= 1 for t, e in zip(taken, exact, strict=True))


@given(st.lists(st.integers(6, 40), min_size=2, max_size=5), st.integers(0, 5))
def test_every_sample_goes_to_one_split_and_calibration_to_train(counts: list[int], seed: int) -> None:
    pool = numbered(counts)
    data = deal("toy", pool, seed=seed, sizes=Sizes())
    got = numbers(data)
    assert sorted(got["train"] + got["validation"] + got["test"]) == list(range(sum(counts)))
    assert set(got["calibration"]) <= set(got["train"])
    assert len(set(got["calibration"])) == len(got["calibration"]) == max(1, len(got["train"]) // 2)
    for _, split in data.parts():
        assert torch.equal(split.y, pool.y[split.x[:, 0].long()])  # classes stay with their samples


def test_proportions_and_order() -> None:
    data = deal("toy", numbered([500, 300, 200]), seed=3, sizes=Sizes())
    sizes = {part: len(split) for part, split in data.parts()}
    assert sizes == {"train": 600, "calibration": 300, "validation": 200, "test": 200}
    assert data.validation.y.bincount().tolist() == [100, 60, 40]
    assert data.calibration.y.bincount().tolist() == [150, 90, 60]
    for part in ("calibration", "validation", "test"):
        half = getattr(data, part).y[: sizes[part] // 2].bincount(minlength=3) / (sizes[part] // 2)
        assert torch.allclose(half, torch.tensor([0.5, 0.3, 0.2]), atol=0.12), part  # a prefix is a fair sample


def test_seed_decides_validation_and_calibration_but_never_test() -> None:
    one, same, other = (numbers(deal("toy", numbered([60, 60]), seed=s, sizes=Sizes())) for s in (1, 1, 2))
    assert one == same
    assert one["test"] == other["test"]
    assert set(one["validation"]) != set(other["validation"])
    assert set(one["calibration"]) != set(other["calibration"])


def test_given_splits_are_kept_and_shuffled() -> None:
    test = Samples(torch.arange(1000, 1040, dtype=torch.float32).view(-1, 1), torch.arange(40) // 20)
    got = numbers(deal("toy", numbered([50, 50]), seed=0, sizes=Sizes(), test=test, validation=test))
    assert sorted(got["test"]) == sorted(got["validation"]) == list(range(1000, 1040))
    assert got["test"] != sorted(got["test"])
    assert got["train"] == list(range(100))  # the training samples of the user stay all, and in order


def test_calibration_is_capped_at_2000() -> None:
    data = deal("toy", numbered([4000, 4000]), seed=0, sizes=Sizes(), test=numbered([2, 2]))
    assert len(data.calibration) == 2000
    whole = deal("toy", numbered([50, 50]), seed=0, sizes=Sizes(calibration=60))
    assert sorted(numbers(whole)["calibration"]) == sorted(numbers(whole)["train"])


@pytest.mark.parametrize("size", [0, -1, 1.0, 2.0, 0.0, True, "5", float("nan"), -0.5])
def test_sizes_that_cannot_be(size: object) -> None:
    with pytest.raises(SettingsError, match="validation must be a number of samples or a share"):
        deal("toy", numbered([20, 20]), seed=0, sizes=Sizes(validation=size))  # type: ignore[arg-type]


def test_too_many_asked_for() -> None:
    with pytest.raises(SettingsError, match="validation=32 asks for 32 samples of 'toy', but at most 31"):
        deal("toy", numbered([20, 20]), seed=0, sizes=Sizes(validation=32, test=8))
    with pytest.raises(DataError, match="cannot hold 31 of 32 samples out of 'toy' and keep 1 of each of its 2"):
        deal("toy", numbered([20, 20]), seed=0, sizes=Sizes(validation=31, test=8))
    with pytest.raises(DataError, match="1 samples; at least 2"):
        deal("toy", numbered([1]), seed=0, sizes=Sizes())
    with pytest.raises(DataError, match="must be 0 or more, but got -1"):
        deal("toy", Samples(torch.zeros(4, 1), torch.tensor([0, 1, -1, 0])), seed=0, sizes=Sizes())


def test_a_class_of_one_sample_stays_in_train() -> None:
    data = deal("toy", numbered([40, 40, 1]), seed=0, sizes=Sizes())
    assert 80 in numbers(data)["train"]
    assert data.num_classes == 3


def test_draw_is_a_permutation_for_any_labels() -> None:
    y = torch.tensor([7, 3, 3, 7, 7, 3, 9, 9])
    taken, rest = draw(y, 3, generator(0, "x"), "toy")
    assert sorted(taken.tolist() + rest.tolist()) == list(range(8))
    assert sorted(y[taken].tolist()) == [3, 7, 9]


@pytest.mark.parametrize("seed", range(4))
def test_both_ends_of_both_results_are_fair_samples(seed: int) -> None:
    y = torch.arange(10).repeat_interleave(2000)
    for index in draw(y, 4000, generator(seed), "x"):
        for part in (index[:200], index[-200:]):
            counts = y[part].bincount(minlength=10)
            assert float(((counts - 20) ** 2 / 20).sum()) < 40  # chi-squared with 9 degrees: once in 100,000


def test_statistics_come_from_train_alone() -> None:
    pool = numbered([30, 30])
    data = deal("toy", pool, seed=0, sizes=Sizes())
    train = np.array(numbers(data)["train"], dtype=np.float64)
    for _, split in data.parts():
        assert split.mean is not None
        assert split.std is not None
        assert float(split.mean) == pytest.approx(train.mean(), rel=1e-6)
        assert float(split.std) == pytest.approx(train.std(), rel=1e-6)
    inputs = data.train.inputs()
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-6)
    assert float(inputs.std(correction=0)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_moments_match_numpy_across_blocks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.data.splitting._BLOCK", 500)  # three images of 2 x 9 x 9 a block
    x = torch.randint(0, 256, (50, 2, 9, 9), generator=generator(1, "m")).to(dtype)
    unit = 255.0 if dtype == torch.uint8 else 1.0
    mean, std = moments(x)
    expected = x.double().numpy() / unit
    np.testing.assert_allclose(mean, expected.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, expected.std((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, 1e6])
def test_a_constant_column_is_centred_only(value: float) -> None:
    mean, std = moments(torch.tensor([[value, 0.0], [value, 1.0], [value, 2.0]]))
    assert std[0] == 1
    assert float(mean[0]) == pytest.approx(value)


def test_missing_values_become_the_mean_of_train() -> None:
    pool = numbered([30, 30])
    pool.x[::7] = float("nan")
    data = deal("toy", pool, seed=0, sizes=Sizes(), impute=True)
    present = data.train.x[data.train.x % 1 == 0]
    filled = torch.cat([split.inputs() for _, split in data.parts() if len(split)]).flatten()
    assert bool(torch.isfinite(filled).all())
    assert int((filled.abs() < 1e-5).sum()) >= 9
    assert float(present.mean()) == pytest.approx(float(data.train.mean), rel=1e-6)  # type: ignore[arg-type]
    empty = Samples(torch.full((10, 1), float("nan")), torch.arange(10) % 2)
    with pytest.raises(DataError, match="input 0 of 'toy' has no value at all"):
        deal("toy", empty, seed=0, sizes=Sizes(), impute=True)
