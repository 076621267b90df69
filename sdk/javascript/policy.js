// What a policy is made of: `export const policyPlugin = policy((parameters) => ({ output(pending, done) { ... } }))`.

import { Fields, saying, settled } from './fields.js';

export * as log from 'membrane:plugin/log@0.1.0';

/** Lets a request, a prompt, a tool call or a tool's result pass. */
export const ALLOW = Object.freeze({ tag: 'allow' });

/** Refuses: the person sees `message`. `reason` is `{ clause, note }`, as everywhere below. */
export function refuse(message, reason) {
  return { tag: 'refuse', val: { message, reason: checked(reason) } };
}

/** Releases the beginning of the pending text; the rest comes again with more. */
export function release(text) {
  return { tag: 'release', val: utf8Length(text) };
}

/** Puts `replacement` in the place of `text`, the beginning of the pending text; the hook is called again on the rest. */
export function redact(text, replacement, reason) {
  return { tag: 'replace', val: { bytes: utf8Length(text), text: replacement, reason: checked(reason) } };
}

/** Releases the beginning of the pending text and ends the answer. */
export function stop(text, reason) {
  return { tag: 'stop', val: { release: utf8Length(text), reason: checked(reason) } };
}

/** Puts a text in the place of the pending text; the model goes on behind it. */
export function force(text, reason) {
  return { tag: 'force', val: { text, reason: checked(reason) } };
}

/** A request goes on with these messages: a list of `{ role, content }`. */
export function rewriteRequest(messages, reason) {
  return { tag: 'rewrite', val: { messages, reason: checked(reason) } };
}

/** A tool call goes on with these arguments (a JSON object as text), or a tool's result as this text. */
export function rewrite(text, reason) {
  return { tag: 'rewrite', val: { text, reason: checked(reason) } };
}

/** A tool call is not made; the model is told so. */
export function deny(reason) {
  return { tag: 'deny', val: checked(reason) };
}

function checked(reason) {
  if (typeof reason?.clause !== 'string' || typeof reason.note !== 'string') {
    throw 'the reason of a verdict is an object of two texts, `{ clause, note }`';
  }
  return reason;
}

/** Bytes of a text in UTF-8, in which the contract counts; JavaScript counts in UTF-16. */
export function utf8Length(text) {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0);
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
}

/** The hooks, each with what it gives where a policy leaves it out. */
const HOOKS = {
  request: () => ALLOW,
  prompt: () => ALLOW,
  output: release,
  toolCall: () => ALLOW,
  toolResult: () => ALLOW,
  finish: () => undefined,
};

/**
 * The names of an object's functions, those of its class too. What every object has, as `toString`, and names that begin with `_` are a
 * policy's own affair.
 */
function functions(object) {
  const names = [];
  for (let at = object; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (typeof value === 'function' && !(name in Object.prototype) && !name.startsWith('_')) {
        names.push(name);
      }
    }
  }
  return names;
}

/**
 * A policy as the contract has it. `start` gets the parameters as `Fields` and gives an object with any of the hooks
 * `request(messages)`, `prompt(rendered)`, `output(pending, done)`, `toolCall(call)`, `toolResult(call, output)` and
 * `finish(released)`; those that are left out let pass. A function of another name is an error, since it would never be called, unless
 * that name begins with `_`. An instance lives for one answer.
 */
export function policy(start) {
  let plugin;
  const call = (name, given) => {
    const verdict = settled(name, plugin[name] ? plugin[name](...given) : HOOKS[name](...given));
    if (name !== 'finish' && verdict?.tag === undefined) {
      throw `${name}: gives ${verdict} in place of a verdict`;
    }
    return verdict;
  };
  const hook = (name) => (...given) => saying(() => call(name, given));
  return {
    configure(parameters) {
      return saying(() => {
        const fields = new Fields('parameters', parameters);
        plugin = settled('policy', start(fields));
        if (plugin === null || typeof plugin !== 'object') {
          throw `a policy is an object of hooks, and ${plugin === null ? 'null' : typeof plugin} was given`;
        }
        fields.end();
        for (const name of functions(plugin)) {
          if (!Object.hasOwn(HOOKS, name)) {
            throw `\`${name}\` is no hook of a policy; there are ${Object.keys(HOOKS).join(', ')} (a helper's name begins with _)`;
          }
        }
      });
    },
    request: hook('request'),
    prompt: hook('prompt'),
    output: hook('output'),
    toolCall: hook('toolCall'),
    toolResult: hook('toolResult'),
    finish: hook('finish'),
  };
}
