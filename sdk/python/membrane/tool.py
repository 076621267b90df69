"""The world `tool`: do something for the model when it asks for it. `ToolPlugin = export(MyTools)` makes a class the
plugin."""

import json
from dataclasses import dataclass
from typing import Callable, Collection, List, Optional, Type

from wit_world import exports
from wit_world.exports.tool_plugin import Description
from wit_world.imports import log

from .fields import Fields, saying, started

__all__ = ["Fields", "Tool", "Tools", "export", "log"]


@dataclass
class Tool:
    """A tool, as it is shown to the model, and what it does."""

    name: str
    description: str
    parameters: dict
    """JSON Schema of the arguments: an object. Where it has `properties` and nothing that allows others, such as
    `"additionalProperties": True`, arguments that it does not name are refused before the call. Elsewhere an argument that
    the call did not read is a warning in the log."""
    call: Callable[[Fields], str]
    """Gets the arguments, gives a text for the model; what it raises is told to the model."""


class Tools:
    """The tools of a component. An instance lives for one answer, or until a call traps."""

    def __init__(self, parameters: Fields) -> None:
        """Starts an answer; fields of the parameters that are not read are an error."""

    def tools(self) -> List[Tool]:
        """The tools; at least one."""
        return []


_OPENING = (
    "additionalProperties", "unevaluatedProperties", "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else",
    "dependentSchemas",
)
"""Keywords by which a schema may allow arguments that its `properties` does not name, unless they are false."""


def _named(schema: dict) -> Optional[Collection[str]]:
    """The arguments that a schema names, where it allows no others."""
    if "patternProperties" in schema:
        return None
    if schema.get("additionalProperties") is False:
        return schema.get("properties", {})
    opens = any(schema.get(word, False) is not False for word in _OPENING)
    return None if opens else schema.get("properties")


class _Running:
    """The tools of this instance: the exports may be called on objects of their own."""

    tools: List[Tool] = []


def export(plugin: Type[Tools]) -> type:
    """The class that the contract asks for, made of a class of tools."""

    class ToolPlugin(exports.ToolPlugin):
        def configure(self, parameters: str) -> None:
            _Running.tools = saying(lambda: started(plugin, parameters).tools())

        def describe(self) -> List[Description]:
            shown = lambda tool: Description(tool.name, tool.description, json.dumps(tool.parameters))
            return [shown(tool) for tool in _Running.tools]

        def call(self, name: str, arguments: str) -> str:
            def answer() -> str:
                fields = Fields("arguments", arguments)
                tool = next(tool for tool in _Running.tools if tool.name == name)
                named = _named(tool.parameters)
                if named is not None:
                    fields.only(named)
                result = tool.call(fields)
                # It has had its effect: what is wrong now does not take its result away.
                for argument in fields.unread() if named is None else []:
                    log.write(log.Level.WARNING, f"{name}: did not read the argument `{argument}`")
                if result is None:
                    raise ValueError(f"{name}: gives no text")
                return str(result)

            return saying(answer)

    return ToolPlugin
