"""Parts of the learners: exploration, replay buffer, settings, isolation of random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import truncnorm

from autoprune.errors import SettingsError, UnknownNameError
from autoprune.search.rl import AGENTS
from autoprune.search.rl.exploration import Exploration, truncated_normal
from autoprune.search.rl.isolation import Apart
from autoprune.search.rl.replay import EpisodeReplay
from autoprune.search.rl.settings import DDPGSettings, MaskablePPOSettings, SACSettings


def test_noise_decays_after_the_warm_up():
    exploration = Exploration(warmup=20, noise=0.5, decay=0.95)
    assert exploration.deviation(0) == exploration.deviation(20) == 1.0
    assert exploration.deviation(21) == pytest.approx(0.95)
    assert exploration.deviation(30) == pytest.approx(0.95**10)


@given(
    mean=st.floats(-1, 1),
    deviation=st.floats(1e-6, 10),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_noise_stays_in_the_range_and_is_the_truncated_normal(mean, deviation, uniform):
    drawn = truncated_normal(np.array([mean]), deviation, np.array([uniform]))
    assert drawn.dtype == np.float32
    assert -1 <= drawn[0] <= 1
    expected = truncnorm.ppf(uniform, (-1 - mean) / deviation, (1 - mean) / deviation, mean, deviation)
    assert drawn[0] == pytest.approx(expected, abs=1e-4)


def test_noise_has_the_moments_of_the_truncated_normal():
    uniform = np.random.default_rng(0).random(200_000)
    drawn = truncated_normal(np.full(200_000, 0.4), 0.7, uniform)
    exact = truncnorm((-1 - 0.4) / 0.7, (1 - 0.4) / 0.7, 0.4, 0.7)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=5e-3)
    assert drawn.std() == pytest.approx(exact.std(), abs=5e-3)


def test_without_noise_the_action_stays():
    assert truncated_normal(np.array([0.3, -1.0]), 0.0, np.array([0.9, 0.9])).tolist() == pytest.approx([0.3, -1.0])


def replay(episodes, **options):
    """A buffer for ``episodes`` episodes of three steps."""
    observed, acted = spaces.Box(0, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    return EpisodeReplay(episodes * 3, observed, acted, device="cpu", handle_timeout_termination=False, **options)


def fill(buffer, *rewards):
    """Episodes of three steps that are paid at their end."""
    for reward in rewards:
        for step in range(3):
            seen = np.full((1, 2), step / 3, np.float32)
            paid = np.array([reward if step == 2 else 0.0], np.float32)
            action = np.full((1, 1), 0.5, np.float32)
            buffer.add(seen, seen, action, paid, np.array([step == 2]), [{}])


def test_every_transition_is_given_the_reward_of_its_episode():
    buffer = replay(3)
    fill(buffer, 0.75, -0.25)
    assert buffer.rewards[:6, 0].tolist() == [0.75] * 3 + [-0.25] * 3
    assert buffer.dones[:6, 0].tolist() == [0, 0, 1, 0, 0, 1]


def test_rewards_go_back_over_the_end_of_the_buffer():
    observed, acted = spaces.Box(0, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    buffer = EpisodeReplay(4, observed, acted, device="cpu", handle_timeout_termination=False)
    fill(buffer, 0.5, 1.0)
    assert buffer.full
    assert buffer.rewards[:, 0].tolist() == [1.0, 1.0, 0.5, 1.0]


def test_the_last_transition_alone_may_keep_the_reward():
    buffer = replay(2, credit="last")
    fill(buffer, 0.75, -0.25)
    assert buffer.rewards[:, 0].tolist() == [0, 0, 0.75, 0, 0, -0.25]


def test_the_baseline_is_the_running_mean_of_batches():
    buffer = replay(2, weight=0.5)
    fill(buffer, 0.8)
    first = buffer.sample(4)
    assert buffer.mean == pytest.approx(0.8)
    assert first.rewards.flatten().tolist() == pytest.approx([0.0] * 4)
    buffer.rewards[:3] = 0.4
    second = buffer.sample(4)
    assert buffer.mean == pytest.approx(0.8 + 0.5 * (0.4 - 0.8))
    assert second.rewards.flatten().tolist() == pytest.approx([0.4 - 0.6] * 4)
    buffer.rewards[:3] = 1.0
    buffer.sample(4)
    assert buffer.mean == pytest.approx(0.6 + 0.5 * (1.0 - 0.6))


def test_without_a_baseline_rewards_stay():
    buffer = replay(1, weight=0.0)
    fill(buffer, 0.8)
    assert buffer.sample(4).rewards.flatten().tolist() == pytest.approx([0.8] * 4)
    assert buffer.mean is None


def test_a_learner_and_the_rest_have_random_numbers_of_their_own():
    def draws():
        return random.random(), float(np.random.random()), float(torch.rand(()))

    def seed(value):
        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)

    seed(1)
    others = [draws() for _ in range(4)]
    seed(2)
    mine = [draws() for _ in range(3)]
    threads = torch.get_num_threads()
    seed(1)
    apart, heard, learned = Apart(), [draws()], []
    with apart.learning():
        seed(2)
        assert torch.get_num_threads() == 1
        learned.append(draws())
        with apart.waiting():
            assert torch.get_num_threads() == threads
            heard += [draws(), draws()]
        learned += [draws(), draws()]
    heard.append(draws())
    assert heard == others
    assert learned == mine
    assert torch.get_num_threads() == threads


def test_an_error_puts_everything_back():
    apart = Apart()
    torch.manual_seed(5)

    def interrupted():
        with apart.learning():
            torch.manual_seed(6)
            with apart.waiting():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    drawn = float(torch.rand(()))
    torch.manual_seed(5)
    assert drawn == float(torch.rand(()))


@pytest.mark.parametrize("name", AGENTS)
def test_defaults_are_settings_that_can_be(name):
    kind = AGENTS[name].settings
    settings = kind()
    assert kind.make(settings.to_dict()) == settings
    assert set(kind.described()) == set(settings.to_dict())
    assert all(text for text in kind.described().values())
    assert "checkpoint" not in settings.learning()


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (DDPGSettings, {"warmpu": 3}, UnknownNameError, "unknown option 'warmpu'; did you mean 'warmup'"),
        (DDPGSettings, {"warmup": -1}, SettingsError, "option 'warmup' must be a whole number from 0, but got -1"),
        (DDPGSettings, {"warmup": 2.5}, SettingsError, "option 'warmup' must be a whole number from 0, but got 2.5"),
        (DDPGSettings, {"warmup": True}, SettingsError, "option 'warmup' must be a whole number from 0, but got True"),
        (DDPGSettings, {"gamma": 1.5}, SettingsError, "option 'gamma' must be a number from 0 to 1, but got 1.5"),
        (DDPGSettings, {"actor_lr": 0}, SettingsError, "option 'actor_lr' must be a number above 0, but got 0"),
        (DDPGSettings, {"noise": float("nan")}, SettingsError, "option 'noise' must be a number from 0, but got nan"),
        (DDPGSettings, {"decay": "fast"}, SettingsError, "must be a number above 0 and at most 1, but got 'fast'"),
        (DDPGSettings, {"hidden": [300, 0]}, SettingsError, "must be whole numbers from 1 on, such as"),
        (DDPGSettings, {"hidden": []}, SettingsError, "must be whole numbers from 1 on, such as"),
        (
            DDPGSettings,
            {"credit": "evry"},
            UnknownNameError,
            "unknown value of option 'credit': 'evry'; did you mean 'every'",
        ),
        (DDPGSettings, {"actions": "discrete"}, UnknownNameError, "unknown value of option 'actions': 'discrete'"),
        (DDPGSettings, {"tensorboard": 3}, SettingsError, "option 'tensorboard' must be a text, but got 3"),
        (
            DDPGSettings,
            {"demonstrations": 1},
            SettingsError,
            "option 'demonstrations' must be true or false, but got 1",
        ),
        (SACSettings, {"entropy": "atuo"}, SettingsError, "must be a number from 0 or 'auto', but got 'atuo'"),
        (
            MaskablePPOSettings,
            {"actions": "sparsity"},
            UnknownNameError,
            "unknown value of option 'actions': 'sparsity'",
        ),
        (MaskablePPOSettings, {"log_std": 0.0}, UnknownNameError, "unknown option 'log_std'"),
    ],
)
def test_bad_settings_are_refused(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind.make(options)


def test_settings_take_what_flags_and_toml_give():
    assert SACSettings.make({"entropy": 0}).entropy == 0.0
    assert SACSettings.make({"entropy": "auto"}).entropy == "auto"
    assert DDPGSettings.make({"hidden": 64}).hidden == (64,)
    assert DDPGSettings.make({"hidden": [32, 16]}).hidden == (32, 16)
    assert isinstance(DDPGSettings.make({"noise": 1}).noise, float)
