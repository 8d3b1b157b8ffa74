"""What raw RQ's workers run."""


def work(number: int, text: str) -> int:
    """Return at once, as the worker step does."""
    del text
    return number
