"""Every learner, by the checks that are shipped for authors of controllers, with settings that learn at once."""

from __future__ import annotations

import pytest

from autoprune.search.rl import AGENTS
from autoprune.search.testing import CHECKS

OFF, ON = {"warmup": 3, "hidden": [16], "checkpoint": 2}, {"episodes": 2, "hidden": [16], "checkpoint": 2}
QUICK = {"ddpg": OFF, "td3": OFF, "sac": OFF, "ppo": ON, "maskable_ppo": ON, "a2c": ON}
RELATED = {"td3": "ddpg", "a2c": "ppo"}  # share all of their code but the library's


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name, check, marks=pytest.mark.slow if name in RELATED and check != "resumes_as_if_straight" else ()
        )
        for name in AGENTS
        for check in CHECKS
    ],
)
def test_a_learner_does_what_every_controller_must(name, check):
    CHECKS[check](name, QUICK[name])
