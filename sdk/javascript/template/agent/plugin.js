// Makes a plan and answers by it.

import { Session, agent, options, said, turn } from './sdk/agent.js';

const PLAN = "Write a short plan of how to answer this. Don't answer it yet.";
const ANSWER = 'Now answer by this plan.';

export const agentPlugin = agent((parameters) => {
  const planTokens = parameters.integer('plan_tokens', 96, 8, 1024);
  const answerTokens = parameters.integer('answer_tokens', 512, 8, 8192);
  return {
    run(task) {
      const session = new Session();
      const turns = [turn('user', `${task}\n\n${PLAN}`)];
      session.chat(turns, false);
      const plan = session.generate(options({ maxTokens: planTokens })).finish();
      turns.push(said(plan), turn('user', ANSWER));
      // What the session holds already is not read again.
      session.chat(turns, false);
      return session.generate(options({ maxTokens: answerTokens })).finish().text;
    },
  };
});
