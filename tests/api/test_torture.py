"""The torture at a size for every run; tests/api/torture.py runs it larger."""
import torture


def test_torture():
    results = torture.main(clients=60, seed=3)
    assert results["left"] > 0 and results["answered"] > 20
