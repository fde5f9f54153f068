"""Waiting for what another process or thread does."""

import time


def wait_for(condition, seconds: float = 60.0):
    """What the condition gives once it holds; fails where it does not in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)
    return found
