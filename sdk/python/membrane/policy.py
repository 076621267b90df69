"""The world `policy`: decide what may be asked and said. `PolicyPlugin = export(MyPolicy)` makes a class the plugin."""

from typing import Any, List, Type, get_args

from wit_world import exports
from wit_world.exports import policy_plugin as verdicts
from wit_world.imports import log
from wit_world.imports.types import Invocation, Message, Reason, Role

from .fields import Fields, saying, started

__all__ = [
    "Fields", "Invocation", "Message", "Policy", "Reason", "Role", "deny_tool_call", "export", "force", "log", "redact",
    "refuse_output", "refuse_prompt", "refuse_request", "refuse_tool_call", "refuse_tool_result", "release",
    "rewrite_request", "rewrite_tool_call", "rewrite_tool_result", "stop",
]


def refuse_request(message: str, reason: Reason) -> verdicts.RequestVerdict:
    """Refuses: the person sees `message`."""
    return verdicts.RequestVerdict_Refuse(verdicts.Refusal(message, reason))


def rewrite_request(messages: List[Message], reason: Reason) -> verdicts.RequestVerdict:
    """The conversation goes on with these messages."""
    return verdicts.RequestVerdict_Rewrite(verdicts.RewrittenRequest(messages, reason))


def refuse_prompt(message: str, reason: Reason) -> verdicts.PromptVerdict:
    """Refuses: the person sees `message`."""
    return verdicts.PromptVerdict_Refuse(verdicts.Refusal(message, reason))


def release(text: str) -> verdicts.OutputVerdict:
    """Releases the beginning of the pending text; the rest comes again with more."""
    return verdicts.OutputVerdict_Release(len(text.encode()))


def redact(text: str, replacement: str, reason: Reason) -> verdicts.OutputVerdict:
    """Puts `replacement` in the place of `text`, the beginning of the pending text; the hook is called again on the rest."""
    return verdicts.OutputVerdict_Replace(verdicts.Replacement(len(text.encode()), replacement, reason))


def stop(text: str, reason: Reason) -> verdicts.OutputVerdict:
    """Releases the beginning of the pending text and ends the answer."""
    return verdicts.OutputVerdict_Stop(verdicts.Ending(len(text.encode()), reason))


def refuse_output(message: str, reason: Reason) -> verdicts.OutputVerdict:
    """The pending text is dropped; the answer ends with the message."""
    return verdicts.OutputVerdict_Refuse(verdicts.Refusal(message, reason))


def force(text: str, reason: Reason) -> verdicts.OutputVerdict:
    """Puts a text in the place of the pending text; the model goes on behind it."""
    return verdicts.OutputVerdict_Force(verdicts.ForcedText(text, reason))


def rewrite_tool_call(arguments: str, reason: Reason) -> verdicts.ToolCallVerdict:
    """The call is made with these arguments, a JSON object."""
    return verdicts.ToolCallVerdict_Rewrite(verdicts.RewrittenText(arguments, reason))


def deny_tool_call(reason: Reason) -> verdicts.ToolCallVerdict:
    """The call is not made; the model is told so."""
    return verdicts.ToolCallVerdict_Deny(reason)


def refuse_tool_call(message: str, reason: Reason) -> verdicts.ToolCallVerdict:
    """Refuses: the person sees `message`."""
    return verdicts.ToolCallVerdict_Refuse(verdicts.Refusal(message, reason))


def rewrite_tool_result(output: str, reason: Reason) -> verdicts.ToolResultVerdict:
    """The model sees this text instead."""
    return verdicts.ToolResultVerdict_Rewrite(verdicts.RewrittenText(output, reason))


def refuse_tool_result(message: str, reason: Reason) -> verdicts.ToolResultVerdict:
    """Refuses: the person sees `message`."""
    return verdicts.ToolResultVerdict_Refuse(verdicts.Refusal(message, reason))


class Policy:
    """A policy. An instance lives for one answer, tool calls included. Every hook lets pass unless it is overridden."""

    def __init_subclass__(cls) -> None:
        """Refuses names such as `toolCall`: nothing would ever call them."""
        hooks = {name.replace("_", ""): name for name in vars(Policy) if not name.startswith("_")}
        for name in (name for name in vars(cls) if not name.startswith("_")):
            hook = hooks.get(name.replace("_", "").lower(), name)
            if hook != name:
                raise TypeError(f"`{name}` is no hook of a policy; it is called `{hook}`")

    def __init__(self, parameters: Fields) -> None:
        """Starts an answer; fields of the parameters that are not read are an error."""

    def request(self, messages: List[Message]) -> verdicts.RequestVerdict:
        """The request, before the chat template. The last message is the newest."""
        return verdicts.RequestVerdict_Allow()

    def prompt(self, rendered: str) -> verdicts.PromptVerdict:
        """The rendered prompt, as the model will read it."""
        return verdicts.PromptVerdict_Allow()

    def output(self, pending: str, done: bool) -> verdicts.OutputVerdict:
        """Text of the answer that no one has seen yet. What is not released when `done` is true is dropped."""
        return release(pending)

    def tool_call(self, call: Invocation) -> verdicts.ToolCallVerdict:
        """A call that the model wants to make."""
        return verdicts.ToolCallVerdict_Allow()

    def tool_result(self, call: Invocation, output: str) -> verdicts.ToolResultVerdict:
        """What a tool gave back, before the model reads it."""
        return verdicts.ToolResultVerdict_Allow()

    def finish(self, released: str) -> None:
        """All that was released, at the end of the answer."""


class _Running:
    """The plugin of this instance: the exports may be called on objects of their own."""

    plugin: Policy


def _given(hook: str, verdict: Any, kind: Any) -> Any:
    """The verdict of a hook."""
    if not isinstance(verdict, get_args(kind)):
        raise TypeError(f"{hook}: gives {verdict!r} in place of a verdict")
    return verdict


def export(plugin: Type[Policy]) -> type:
    """The class that the contract asks for, made of a policy."""

    class PolicyPlugin(exports.PolicyPlugin):
        def configure(self, parameters: str) -> None:
            _Running.plugin = saying(lambda: started(plugin, parameters))

        def request(self, messages: List[Message]) -> verdicts.RequestVerdict:
            return saying(lambda: _given("request", _Running.plugin.request(messages), verdicts.RequestVerdict))

        def prompt(self, rendered: str) -> verdicts.PromptVerdict:
            return saying(lambda: _given("prompt", _Running.plugin.prompt(rendered), verdicts.PromptVerdict))

        def output(self, pending: str, done: bool) -> verdicts.OutputVerdict:
            return saying(lambda: _given("output", _Running.plugin.output(pending, done), verdicts.OutputVerdict))

        def tool_call(self, call: Invocation) -> verdicts.ToolCallVerdict:
            return saying(lambda: _given("tool_call", _Running.plugin.tool_call(call), verdicts.ToolCallVerdict))

        def tool_result(self, call: Invocation, output: str) -> verdicts.ToolResultVerdict:
            verdict = lambda: _Running.plugin.tool_result(call, output)
            return saying(lambda: _given("tool_result", verdict(), verdicts.ToolResultVerdict))

        def finish(self, released: str) -> None:
            saying(lambda: _Running.plugin.finish(released))

    return PolicyPlugin
