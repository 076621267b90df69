"""The world `sampler`: choose the next token. `SamplerPlugin = export(MySampler)` makes a class the plugin."""

from typing import Type

from wit_world import exports
from wit_world.exports.sampler_plugin import Choice, Choice_Pass, Choice_Token
from wit_world.imports import history, log, logits, random, vocabulary

from .fields import Fields, saying, started

__all__ = ["Fields", "PASS", "Sampler", "export", "history", "log", "logits", "random", "token", "vocabulary"]

PASS = Choice_Pass()
"""The next sampler of the chain chooses."""


def token(number: int) -> Choice:
    """This token is next."""
    return Choice_Token(number)


class Sampler:
    """A sampler. An instance lives for one answer."""

    def __init__(self, parameters: Fields) -> None:
        """Starts an answer; fields of the parameters that are not read are an error."""

    def sample(self) -> Choice:
        """Called once for each token; gives `token(number)` or `PASS`."""
        return PASS


def export(plugin: Type[Sampler]) -> type:
    """The class that the contract asks for, made of a sampler."""

    class SamplerPlugin(exports.SamplerPlugin):
        def configure(self, parameters: str) -> None:
            _Running.plugin = saying(lambda: started(plugin, parameters))

        def sample(self) -> Choice:
            return saying(_choice)

    return SamplerPlugin


def _choice() -> Choice:
    """What the sampler chose."""
    chosen = _Running.plugin.sample()
    if not isinstance(chosen, (Choice_Pass, Choice_Token)):
        raise TypeError(f"sample: gives {chosen!r} in place of `token(number)` or `PASS`")
    return chosen


class _Running:
    """The plugin of this instance: the exports may be called on objects of their own."""

    plugin: Sampler
