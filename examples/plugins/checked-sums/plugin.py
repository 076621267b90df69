"""Answers a question of arithmetic with expressions that a calculator has worked out.

The model writes several expressions, in forks of one context and at the same time, and a tool works them out. The equation that
the model finds likeliest is written, and behind it the model says the answer in a sentence.
"""

from typing import List

from membrane.agent import Agent, Err, Fields, Role, Session, call_tool, export, log, options, output, turn, why

SYSTEM = "Write the arithmetic expression that answers the question, and nothing else."
EXAMPLE = [
    turn(Role.USER, "A shelf has 4 rows of 6 cups. How many cups are there?"),
    turn(Role.ASSISTANT, "4 * 6 = 24"),
]
SENTENCE = "Say the answer in one sentence."


class CheckedSums(Agent):
    """The agent."""

    def __init__(self, parameters: Fields) -> None:
        self.tries = parameters.integer("tries", 4, 1, 16)
        self.tool = parameters.text("tool", "calculator")

    def run(self, task: str) -> str:
        session = Session()
        turns = [turn(Role.SYSTEM, SYSTEM), *EXAMPLE, turn(Role.USER, task)]
        session.chat(turns, False)
        equations = self.worked_out(self.expressions(session))
        equation = likeliest(session, equations)
        output.write(f"{equation}\n")
        turns += [turn(Role.ASSISTANT, equation), turn(Role.USER, SENTENCE)]
        session.chat(turns, False)
        sentence = session.generate(options(max_tokens=48, stop=["\n"]))
        while (piece := sentence.next()) is not None:
            output.write(piece)
        return ""

    def expressions(self, session: Session) -> List[str]:
        """What the model writes in forks of a session, all of which are in the making at the same time."""
        forks = [session.fork() for _ in range(self.tries)]
        started = [fork.generate(options(max_tokens=24, stop=["=", "\n"])) for fork in forks]
        return [cleaned(generation.finish().text) for generation in started]

    def worked_out(self, expressions: List[str]) -> List[str]:
        """The equations that the tool makes of expressions, each once. What it can't work out is left out."""
        equations: List[str] = []
        wrong = "the model wrote none"
        for expression in filter(None, dict.fromkeys(expressions)):
            try:
                equations.append(f"{expression} = {call_tool(self.tool, {'expression': expression})}")
            except Err as error:
                wrong = why(error)
                log.write(log.Level.DEBUG, f"{expression}: {wrong}")
        if not equations:
            raise ValueError(f"no expression could be worked out: {wrong}")
        return equations


def cleaned(text: str) -> str:
    """What of a text can stand in an expression."""
    return "".join(character for character in text if character in "0123456789.+-*/() ").strip(" ")


def likeliest(session: Session, texts: List[str]) -> str:
    """The text that has the largest mean log probability of its tokens behind a session's context; the first of equal ones."""
    scores = session.score(texts)
    means = [score.log_probability / max(score.tokens, 1) for score in scores]
    return texts[means.index(max(means))]


AgentPlugin = export(CheckedSums)
