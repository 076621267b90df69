// What an agent is made of: `export const agentPlugin = agent((parameters) => ({ run(task) { ... } }))`.

import { Fields, saying, textual } from './fields.js';
import { call } from 'membrane:plugin/tools@0.1.0';

export { Session, model } from 'membrane:plugin/inference@0.1.0';
export { available } from 'membrane:plugin/tools@0.1.0';
export { write } from 'membrane:plugin/output@0.1.0';
export * as log from 'membrane:plugin/log@0.1.0';
export * as random from 'membrane:plugin/random@0.1.0';
export * as vocabulary from 'membrane:plugin/vocabulary@0.1.0';

/** A turn of a conversation; `role` is `system`, `user` or `assistant`. */
export function turn(role, content) {
  return { role, content, calls: [], tool: undefined };
}

/** What a model said, and the calls that it made, as a turn. */
export function said(completion) {
  return { role: 'assistant', content: completion.text, calls: completion.calls, tool: undefined };
}

/** What a tool gave back, as a turn. */
export function result(tool, content) {
  return { role: 'tool', content, calls: [], tool };
}

/** A constraint: a JSON value that a JSON Schema allows; the schema is an object, or its text. */
export function jsonSchema(schema) {
  return { tag: 'json-schema', val: typeof schema === 'string' ? schema : JSON.stringify(schema) };
}

/** A constraint: a text that an expression, given as a text, matches as a whole. */
export function regex(expression) {
  return { tag: 'regex', val: expression };
}

/** A constraint: a text of a grammar, in the Lark form of llguidance. */
export function lark(grammar) {
  return { tag: 'lark', val: grammar };
}

/**
 * How a text is to be generated, for `session.generate`; all that is left out has its default. `maxTokens`: most tokens.
 * `stop`: a list of texts that end it. `constraint`: what `jsonSchema`, `regex` or `lark` gives. `seed`: a whole number.
 * `sampling`: parameters in the place of those that the profile's last sampler has, an object.
 */
export function options({ maxTokens, stop = [], constraint, seed, sampling, ...others } = {}) {
  for (const name of Object.keys(others)) {
    throw `options: unknown field \`${name}\``;
  }
  const isConstraint = ['json-schema', 'regex', 'lark'].includes(constraint?.tag) && typeof constraint.val === 'string';
  if (constraint !== undefined && !isConstraint) {
    throw 'options: constraint: is not what `jsonSchema`, `regex` or `lark` makes of a text';
  }
  if (!Array.isArray(stop)) {
    throw 'options: stop: is not a list of texts';
  }
  return {
    maxTokens: maxTokens === undefined ? undefined : whole('maxTokens', maxTokens),
    stop,
    constraint,
    seed: seed === undefined ? undefined : whole('seed', seed),
    sampling: sampling === undefined ? undefined : JSON.stringify(sampling),
  };
}

/** Gives a session or a generation up; one that nothing refers to any more stays open otherwise, and 64 sessions may be. */
export function drop(resource) {
  resource[Symbol.dispose]();
}

/** A number that JavaScript has exactly. The bindings take no BigInt. */
function whole(name, value) {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 0) {
    throw `${name}: ${value} is not a whole number between 0 and ${Number.MAX_SAFE_INTEGER}`;
  }
  return number;
}

/** Calls a tool of the run with arguments, an object; gives its text. Throws a text where it fails. */
export function callTool(name, args) {
  try {
    return call({ name, arguments: JSON.stringify(args) });
  } catch (error) {
    throw why(error);
  }
}

/** What is wrong, as a sentence: errors of the host are variants. */
export function why(error) {
  const { tag, val } = error?.payload ?? error ?? {};
  switch (tag) {
    case undefined:
      return typeof error === 'string' ? error : String(error?.payload ?? error?.message ?? error);
    case 'overflow':
      return `the context has room for ${val.room} more tokens, and ${val.needed} are needed`;
    case 'refused':
      return val.message;
    case 'busy':
      return 'a generation is running in this session';
    default:
      return val;
  }
}

/**
 * An agent as the contract has it. `start` gets the parameters as `Fields` and gives an object with `run(task)`, which gives a
 * text that is added to what was written with `write`, or nothing. An instance lives for one run.
 */
export function agent(start) {
  let plugin;
  return {
    configure(parameters) {
      return saying(() => {
        const fields = new Fields('parameters', parameters);
        plugin = start(fields);
        fields.end();
      });
    },
    run(task) {
      try {
        return textual('run', plugin.run(task) ?? '');
      } catch (error) {
        throw why(error);
      }
    },
  };
}
