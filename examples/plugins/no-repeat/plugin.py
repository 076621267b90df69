"""Never writes the same run of tokens twice: forbids each token that would complete a run that the text has already."""

from typing import List

from membrane.sampler import PASS, Fields, Sampler, export, history, logits, token


class NoRepeat(Sampler):
    """The sampler."""

    def __init__(self, parameters: Fields) -> None:
        self.size = parameters.integer("size", 3, 2, 16)
        self.last = parameters.integer("last", 1024, 1, 65536)
        self.choose = parameters.flag("choose", True)

    def sample(self):
        banned = completing(history.tail(self.last), self.size)
        # Something has to be left.
        if 0 < len(banned) < logits.count():
            logits.mask(logits.MaskKind.FORBID, banned)
        return token(logits.draw().token) if self.choose else PASS


def completing(tokens: List[int], size: int) -> List[int]:
    """The tokens that would complete a run of `size` tokens that is in `tokens` already, in their order."""
    begun = len(tokens) - (size - 1)
    starts = range(max(begun, 0))
    return sorted({tokens[start + size - 1] for start in starts if tokens[start : start + size - 1] == tokens[begun:]})


SamplerPlugin = export(NoRepeat)
