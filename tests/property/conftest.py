"""How long these look for a counterexample: briefly in the suite, for minutes in `python -m tests.property.fuzz`."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")
