"""How much is tried: a few examples, the same each time, or with `--random-seeds N` N times as many new ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

EXAMPLES = 40


def pytest_configure(config: pytest.Config) -> None:
    seeds = config.option.random_seeds or 0
    settings.register_profile(
        "fuzz",
        max_examples=EXAMPLES * max(1, seeds),
        derandomize=not seeds,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],  # explaining a failure takes a minute
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )
    settings.load_profile("fuzz")
