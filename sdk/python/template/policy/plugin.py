"""Keeps a text out of every answer."""

from membrane.policy import Fields, Policy, Reason, export, redact, release

REASON = Reason("my-policy", "The text is not to be seen.")
REDACTED = "[redacted]"
MOST_BEFORE = 8192
"""Characters before the text that go out in one replacement with it: a replacement has at most 64 KiB."""


class Plugin(Policy):
    """The policy."""

    def __init__(self, parameters: Fields) -> None:
        self.text = parameters.text("text")
        if not self.text:
            raise ValueError("text: is empty")

    def output(self, pending: str, done: bool):
        start = pending.find(self.text)
        if start < 0:
            return release(pending if done else pending[: self.possible_start(pending)])
        if start > 0 and not done:
            return release(pending[:start])
        # At the end of an answer there can be text before a match, which goes out with the replacement.
        if start > MOST_BEFORE:
            return redact(pending[:MOST_BEFORE], pending[:MOST_BEFORE], REASON)
        return redact(pending[: start + len(self.text)], pending[:start] + REDACTED, REASON)

    def possible_start(self, pending: str) -> int:
        """Where the end of `pending` may be the beginning of the text; its length if nowhere."""
        for start in range(max(0, len(pending) - len(self.text) + 1), len(pending)):
            if self.text.startswith(pending[start:]):
                return start
        return len(pending)


PolicyPlugin = export(Plugin)
