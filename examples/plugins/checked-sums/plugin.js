// Answers a question of arithmetic with expressions that a calculator has worked out.
//
// The model writes several expressions, in forks of one context and at the same time, and a tool works them out. The equation that
// the model finds likeliest is written, and behind it the model says the answer in a sentence.

import { Session, agent, callTool, log, options, turn, why, write } from './sdk/agent.js';

const SYSTEM = 'Write the arithmetic expression that answers the question, and nothing else.';
const EXAMPLE = [turn('user', 'A shelf has 4 rows of 6 cups. How many cups are there?'), turn('assistant', '4 * 6 = 24')];
const SENTENCE = 'Say the answer in one sentence.';

export const agentPlugin = agent((parameters) => {
  const tries = parameters.integer('tries', 4, 1, 16);
  const tool = parameters.text('tool', 'calculator');
  return {
    run(task) {
      const session = new Session();
      const turns = [turn('system', SYSTEM), ...EXAMPLE, turn('user', task)];
      session.chat(turns, false);
      const equations = workedOut(expressions(session, tries), tool);
      const equation = likeliest(session, equations);
      write(`${equation}\n`);
      turns.push(turn('assistant', equation), turn('user', SENTENCE));
      session.chat(turns, false);
      const sentence = session.generate(options({ maxTokens: 48, stop: ['\n'] }));
      for (let piece = sentence.next(); piece !== null; piece = sentence.next()) {
        write(piece);
      }
      return '';
    },
  };
});

/** What the model writes in forks of a session, all of which are in the making at the same time. */
function expressions(session, tries) {
  const started = [];
  for (let index = 0; index < tries; index++) {
    started.push(session.fork().generate(options({ maxTokens: 24, stop: ['=', '\n'] })));
  }
  return started.map((generation) => cleaned(generation.finish().text));
}

/** What of a text can stand in an expression. */
function cleaned(text) {
  return [...text].filter((character) => '0123456789.+-*/() '.includes(character)).join('').trim();
}

/** The equations that a tool makes of expressions, each once. What it can't work out is left out. */
function workedOut(expressions, tool) {
  const equations = [];
  let wrong = 'the model wrote none';
  for (const expression of new Set(expressions)) {
    if (expression === '') {
      continue;
    }
    try {
      equations.push(`${expression} = ${callTool(tool, { expression })}`);
    } catch (error) {
      wrong = why(error);
      log.write('debug', `${expression}: ${wrong}`);
    }
  }
  if (equations.length === 0) {
    throw `no expression could be worked out: ${wrong}`;
  }
  return equations;
}

/** The text that has the largest mean log probability of its tokens behind a session's context; the first of equal ones. */
function likeliest(session, texts) {
  const means = session.score(texts).map((score) => score.logProbability / Math.max(score.tokens, 1));
  let best = 0;
  for (let place = 1; place < means.length; place++) {
    if (means[place] > means[best]) {
      best = place;
    }
  }
  return texts[best];
}
