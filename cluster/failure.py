"""The one way a command of the cluster gives up: what is wrong, and what to do about it."""


class Refused(Exception):
    """Positional, so that it survives pickling. Both are one sentence without a full stop."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"
