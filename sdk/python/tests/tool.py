"""Fields, and what of tools runs outside of a host, whose interfaces are played here: `python3 tool.py`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, List, Tuple


class Err(Exception):
    """What componentize-py makes an error of the contract of."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


@dataclass
class Description:
    """A tool, as the contract has it."""

    name: str
    description: str
    parameters: str


LINES: List[str] = []
"""What was logged."""


def played(name: str, **members: Any) -> None:
    """Puts a module in the place of one that a build makes."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


LEVEL = SimpleNamespace(DEBUG="debug", INFO="info", WARNING="warning")
LOG = SimpleNamespace(Level=LEVEL, write=lambda level, text: LINES.append(f"{level} {text}"))
played("componentize_py_types", Err=Err)
played("wit_world.exports.tool_plugin", Description=Description)
played("wit_world.exports", ToolPlugin=object)
played("wit_world.imports", log=LOG)
played("wit_world", exports=sys.modules["wit_world.exports"], imports=sys.modules["wit_world.imports"])
sys.path.insert(0, str(Path(__file__).parent.parent))

from membrane.fields import Fields  # noqa: E402
from membrane.tool import Tool, Tools, export  # noqa: E402


def raised(body: Callable[[], Any]) -> str:
    """What `body` raises; nothing if it goes well."""
    try:
        body()
    except Exception as error:
        return str(error)
    return ""


def equal(found: Any, wanted: Any, about: Any = None) -> None:
    assert found == wanted, f"{found!r} and not {wanted!r} {about or ''}"


def fields_are_read_more_than_once() -> None:
    fields = Fields("parameters", '{"a": "x", "b": 2, "c": ["y"], "e": 1}')
    for _ in range(2):
        equal(fields.text("a"), "x")
        equal(fields.integer("b", 7, 0, 9), 2)
        equal(fields.texts("c", []), ["y"])
        equal((fields.has("a"), fields.has("d")), (True, False))
    equal(fields.text("d", "z"), "z")
    equal(raised(lambda: fields.text("b")), "parameters: b: is not a text")
    equal(raised(lambda: fields.text("d")), "parameters: missing field `d`")
    equal(fields.unread(), ["e"])
    equal(raised(fields.end), "parameters: unknown field `e`")
    equal(raised(lambda: fields.only(["a", "b", "e"])), "parameters: unknown field `c`")


def called(schema: dict, arguments: str, result: Any = "done") -> Tuple[str, int, List[str]]:
    """Calls a tool with a schema, which reads the argument `a`; gives what came of it, how often it was called, and its log."""
    calls: List[str] = []

    def call(given: Fields) -> Any:
        calls.append(given.text("a", ""))
        return result

    class Plugin(Tools):
        def tools(self) -> List[Tool]:
            return [Tool("t", "", schema, call)]

    plugin = export(Plugin)()
    shown = sys.stdout, sys.stderr
    plugin.configure("{}")
    sys.stdout, sys.stderr = shown
    equal([json.loads(tool.parameters) for tool in plugin.describe()], [schema])
    LINES.clear()
    try:
        came = plugin.call("t", arguments)
    except Err as error:
        came = error.value
    return came, len(calls), list(LINES)


def what_a_schema_does_not_name_is_refused_before_the_call() -> None:
    properties = {"a": {"type": "string"}, "unused": {}}
    refused = ("arguments: unknown field `b`", 0, [])
    logged = ("done", 1, ["warning t: did not read the argument `b`"])
    for schema, outcome in [
        ({"properties": properties}, refused),
        ({"properties": properties, "required": ["a"], "additionalProperties": False}, refused),
        ({"properties": properties, "unevaluatedProperties": False}, refused),
        ({"properties": properties, "anyOf": [{"required": ["a"]}], "additionalProperties": False}, refused),
        ({"properties": {}}, refused),
        ({"additionalProperties": False}, refused),
        ({"type": "object"}, logged),
        ({"properties": properties, "additionalProperties": True}, logged),
        ({"properties": properties, "additionalProperties": {"type": "string"}}, logged),
        ({"properties": properties, "unevaluatedProperties": {}}, logged),
        ({"properties": properties, "allOf": [{"properties": {"b": {}}}]}, logged),
        ({"properties": properties, "patternProperties": {"^b": {}}, "additionalProperties": False}, logged),
    ]:
        equal(called(schema, '{"b": 1}'), outcome, schema)
    schema = {"properties": properties}
    equal(called(schema, '{"a": "x", "unused": 1}'), ("done", 1, []))
    equal(called(schema, '{"a": 1}'), ("arguments: a: is not a text", 0, []))
    equal(called(schema, "[]"), ("arguments: is no JSON object", 0, []))
    equal(called(schema, "{}", None), ("t: gives no text", 1, []))


fields_are_read_more_than_once()
what_a_schema_does_not_name_is_refused_before_the_call()
