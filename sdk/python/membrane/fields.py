"""The fields of a JSON object: a plugin's parameters, or the arguments of a tool; and what all kinds of plugins share."""

import io
import json
import sys
from typing import Any, Callable, Collection, Iterable, List, Optional, Set

from componentize_py_types import Err
from wit_world.imports import log


class Fields:
    """Reads fields one by one, each as often as one likes; what is wrong is raised as a sentence that names the field."""

    def __init__(self, what: str, text: str) -> None:
        """`what` begins every sentence; `text` is a JSON object."""
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"{what}: is no JSON object")
        self._what = what
        self._values = value
        self._read: Set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._values

    def text(self, name: str, otherwise: Optional[str] = None) -> str:
        """A text. Without a default the field must be there."""
        return self._take(name, otherwise, lambda value: isinstance(value, str), "is not a text")

    def flag(self, name: str, otherwise: bool) -> bool:
        """True or false."""
        return self._take(name, otherwise, lambda value: isinstance(value, bool), "is neither true nor false")

    def integer(self, name: str, otherwise: int, least: int, most: int) -> int:
        """A whole number between two others."""
        whole = lambda value: isinstance(value, int) and not isinstance(value, bool)
        return self._between(name, self._take(name, otherwise, whole, "is not a whole number"), least, most)

    def number(self, name: str, otherwise: float, least: float, most: float) -> float:
        """A number between two others."""
        number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
        return self._between(name, self._take(name, otherwise, number, "is not a number"), least, most)

    def texts(self, name: str, otherwise: Optional[List[str]] = None) -> List[str]:
        """A list of texts. Without a default the field must be there."""
        fits = lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value)
        return self._take(name, otherwise, fits, "is not a list of texts")

    def unread(self) -> List[str]:
        """The fields that were not read."""
        return [name for name in self._values if name not in self._read]

    def end(self) -> None:
        """Raises if a field was not read: "unknown field `x`"."""
        self._refuse(self.unread())

    def only(self, names: Collection[str]) -> None:
        """Raises if there is a field of another name, in the same words."""
        self._refuse(name for name in self._values if name not in names)

    def _refuse(self, names: Iterable[str]) -> None:
        for name in names:
            raise ValueError(f"{self._what}: unknown field `{name}`")

    def _take(self, name: str, otherwise: Any, fits: Callable[[Any], bool], wrong: str) -> Any:
        self._read.add(name)
        if name not in self._values:
            if otherwise is None:
                raise ValueError(f"{self._what}: missing field `{name}`")
            return otherwise
        value = self._values[name]
        if not fits(value):
            raise ValueError(f"{self._what}: {name}: {wrong}")
        return value

    def _between(self, name: str, value: Any, least: Any, most: Any) -> Any:
        if not least <= value <= most:
            raise ValueError(f"{self._what}: {name}: {value} is not between {least} and {most}")
        return value


class _Log(io.TextIOBase):
    """Where `print` goes: a plugin has no standard output, so each line becomes one of its log."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.write(log.Level.INFO, line)
        return len(text)


def started(make: Callable[[Fields], Any], parameters: str) -> Any:
    """What a class makes of the parameters, all of which it must have read."""
    sys.stdout = sys.stderr = _Log()
    fields = Fields("parameters", parameters)
    plugin = make(fields)
    fields.end()
    return plugin


def saying(body: Callable[[], Any]) -> Any:
    """Runs `body`; what it raises becomes the error of the contract, a text."""
    try:
        return body()
    except Err:
        raise
    except Exception as error:
        raise Err(str(error) or type(error).__name__) from error
