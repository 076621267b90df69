"""The world `tool`: do something for the model when it asks for it. `ToolPlugin = export(MyTools)` makes a class the
plugin."""

import json
from dataclasses import dataclass
from typing import Callable, List, Type

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
    """JSON Schema of the arguments: an object."""
    call: Callable[[Fields], str]
    """Gets the arguments, gives a text for the model; what it raises is told to the model."""


class Tools:
    """The tools of a component. An instance lives for one answer, or until a call traps."""

    def __init__(self, parameters: Fields) -> None:
        """Starts an answer; fields of the parameters that are not read are an error."""

    def tools(self) -> List[Tool]:
        """The tools; at least one."""
        return []


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
                result = tool.call(fields)
                fields.end()
                if result is None:
                    raise ValueError(f"{name}: gives no text")
                return str(result)

            return saying(answer)

    return ToolPlugin
