"""Counts the words of a text."""

from membrane.tool import Fields, Tool, Tools, export


class Plugin(Tools):
    """One tool."""

    def tools(self):
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        return [Tool("count_words", "Counts the words of a text.", schema, self.count)]

    def count(self, arguments: Fields) -> str:
        return str(len(arguments.text("text").split()))


ToolPlugin = export(Plugin)
