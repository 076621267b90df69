"""The world `agent`: pursue a task with the model and the tools of the run. `AgentPlugin = export(MyAgent)` makes a class
the plugin."""

import json
from typing import Any, List, Optional, Type, Union

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import inference, log, output, random, tools, vocabulary
from wit_world.imports.inference import (
    Completion, Constraint, Constraint_JsonSchema, Constraint_Lark, Constraint_Regex, EndReason, Generation, GenerationOptions,
    InferenceError, InferenceError_Busy, InferenceError_Overflow, InferenceError_Refused, Score, Session, Turn, model,
)
from wit_world.imports.types import Invocation, Role

from .fields import Fields, saying, started

__all__ = [
    "Agent", "Completion", "Constraint", "EndReason", "Err", "Fields", "Generation", "Invocation", "Role", "Score", "Session",
    "Turn", "call_tool", "export", "inference", "json_schema", "lark", "log", "model", "options", "output", "random", "regex", "result",
    "said", "tools", "turn", "vocabulary", "why",
]


def turn(role: Role, content: str) -> Turn:
    """A turn of a conversation."""
    return Turn(role, content, [], None)


def said(completion: Completion) -> Turn:
    """What a model said, and the calls that it made, as a turn."""
    return Turn(Role.ASSISTANT, completion.text, completion.calls, None)


def result(tool: str, content: str) -> Turn:
    """What a tool gave back, as a turn."""
    return Turn(Role.TOOL, content, [], tool)


def json_schema(schema: Union[dict, str]) -> Constraint:
    """A constraint: a JSON value that a JSON Schema allows; the schema is a dict, or its text."""
    return Constraint_JsonSchema(schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False))


def regex(expression: str) -> Constraint:
    """A constraint: a text that an expression matches as a whole."""
    return Constraint_Regex(expression)


def lark(grammar: str) -> Constraint:
    """A constraint: a text of a grammar, in the Lark form of llguidance."""
    return Constraint_Lark(grammar)


def options(
    max_tokens: Optional[int] = None,
    stop: Optional[List[str]] = None,
    constraint: Optional[Constraint] = None,
    seed: Optional[int] = None,
    sampling: Optional[dict] = None,
) -> GenerationOptions:
    """How a text is to be generated, for `session.generate`. `stop` are texts that end it, `constraint` is what `json_schema`, `regex`
    or `lark` gives, `sampling` are parameters in the place of those that the profile's
    last sampler has."""
    parameters = None if sampling is None else json.dumps(sampling)
    return GenerationOptions(max_tokens, stop or [], constraint, seed, parameters)


def call_tool(name: str, arguments: dict) -> str:
    """Calls a tool of the run; gives its text. Where it fails, `Err` is raised with a text."""
    text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return tools.call(Invocation(name, text))


def why(error: Any) -> str:
    """What is wrong, as a sentence; of an `Err`, of its value, or of any exception."""
    value = error.value if isinstance(error, Err) else error
    if isinstance(value, InferenceError_Overflow):
        overflow = value.value
        return f"the context has room for {overflow.room} more tokens, and {overflow.needed} are needed"
    if isinstance(value, InferenceError_Refused):
        return value.value.message
    if isinstance(value, InferenceError_Busy):
        return "a generation is running in this session"
    return str(getattr(value, "value", value)) or type(value).__name__


class Agent:
    """An agent. An instance lives for one run."""

    def __init__(self, parameters: Fields) -> None:
        """Starts a run; fields of the parameters that are not read are an error."""

    def run(self, task: str) -> str:
        """Does a task; gives a text that is added to what was written with `output.write`."""
        return ""


class _Running:
    """The plugin of this instance: the exports may be called on objects of their own."""

    plugin: Agent


def export(plugin: Type[Agent]) -> type:
    """The class that the contract asks for, made of an agent."""

    class AgentPlugin(exports.AgentPlugin):
        def configure(self, parameters: str) -> None:
            _Running.plugin = saying(lambda: started(plugin, parameters))

        def run(self, task: str) -> str:
            try:
                return str(_Running.plugin.run(task) or "")
            except Exception as error:
                raise Err(why(error)) from error

    return AgentPlugin
