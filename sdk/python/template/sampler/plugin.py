"""Begins every answer with a given text."""

from membrane.sampler import PASS, Fields, Sampler, export, token, vocabulary


class Plugin(Sampler):
    """The sampler, with what is left to say."""

    def __init__(self, parameters: Fields) -> None:
        self.left = iter(vocabulary.encode(parameters.text("text")))

    def sample(self):
        number = next(self.left, None)
        return PASS if number is None else token(number)


SamplerPlugin = export(Plugin)
