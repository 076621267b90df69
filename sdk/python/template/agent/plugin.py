"""Makes a plan and answers by it."""

from membrane.agent import Agent, Fields, Role, Session, export, options, said, turn

PLAN = "Write a short plan of how to answer this. Don't answer it yet."
ANSWER = "Now answer by this plan."


class Plugin(Agent):
    """The agent."""

    def __init__(self, parameters: Fields) -> None:
        self.plan_tokens = parameters.integer("plan_tokens", 96, 8, 1024)
        self.answer_tokens = parameters.integer("answer_tokens", 512, 8, 8192)

    def run(self, task: str) -> str:
        session = Session()
        turns = [turn(Role.USER, f"{task}\n\n{PLAN}")]
        session.chat(turns, False)
        plan = session.generate(options(max_tokens=self.plan_tokens)).finish()
        turns += [said(plan), turn(Role.USER, ANSWER)]
        # What the session holds already is not read again.
        session.chat(turns, False)
        return session.generate(options(max_tokens=self.answer_tokens)).finish().text


AgentPlugin = export(Plugin)
