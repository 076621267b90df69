"""Keeps the words of a list out of requests, answers and the results of tools.

An answer arrives in pieces. What may become a word is held back until more has come; at each place the longest word counts.
So the pieces in which an answer arrives never change what is released.
"""

from typing import List, Tuple

from membrane.policy import (
    Fields, Invocation, Message, Policy, Reason, export, redact, refuse_request, release, rewrite_tool_result,
)

REASON = Reason("word-list", "The list has the word.")
MOST_BEFORE = 8192
"""Characters before a word that go out in one replacement with it: a replacement has at most 64 KiB."""

SMALL = {capital: capital + 32 for capital in range(ord("A"), ord("Z") + 1)}
"""Small letters of ASCII for its capital ones."""


class WordList(Policy):
    """The policy."""

    def __init__(self, parameters: Fields) -> None:
        self.words = [word.translate(SMALL) for word in parameters.texts("words")]
        self.replacement = parameters.text("replacement", "[...]")
        if not self.words or "" in self.words:
            raise ValueError("words: there must be one, and none empty")

    def search(self, text: str, done: bool) -> Tuple[int, int]:
        """The first word: where it starts, and its length, which is 0 where what starts there may only become one."""
        folded = text.translate(SMALL)
        for start in range(len(folded)):
            longest = 0
            for word in self.words:
                if folded.startswith(word, start):
                    longest = max(longest, len(word))
                elif not done and word.startswith(folded[start : start + len(word)]):
                    return start, 0
            if longest:
                return start, longest
        return len(folded), 0

    def request(self, messages: List[Message]):
        _, length = self.search(messages[-1].content if messages else "", True)
        if length:
            return refuse_request("Your message has a word that is not allowed here.", REASON)
        return super().request(messages)

    def output(self, pending: str, done: bool):
        start, length = self.search(pending, done)
        if not length or (start > 0 and not done):
            return release(pending[:start])
        # At the end of an answer there can be text before a word, which goes out with the replacement.
        if start > MOST_BEFORE:
            return redact(pending[:MOST_BEFORE], pending[:MOST_BEFORE], REASON)
        return redact(pending[: start + length], pending[:start] + self.replacement, REASON)

    def tool_result(self, call: Invocation, output: str):
        cleaned, rest = "", output
        start, length = self.search(rest, True)
        while length:
            cleaned += rest[:start] + self.replacement
            rest = rest[start + length :]
            start, length = self.search(rest, True)
        if len(rest) < len(output):
            return rewrite_tool_result(cleaned + rest, REASON)
        return super().tool_result(call, output)


PolicyPlugin = export(WordList)
