// What a policy is made of: `export const policyPlugin = policy((parameters) => ({ output(pending, done) { ... } }))`.

import { Fields, saying } from './fields.js';

export * as log from 'membrane:plugin/log@0.1.0';

/** Lets a request, a prompt, a tool call or a tool's result pass. */
export const ALLOW = Object.freeze({ tag: 'allow' });

/** Refuses: the person sees `message`. `reason` is `{ clause, note }`, as everywhere below. */
export function refuse(message, reason) {
  return { tag: 'refuse', val: { message, reason } };
}

/** Releases the beginning of the pending text; the rest comes again with more. */
export function release(text) {
  return { tag: 'release', val: utf8Length(text) };
}

/** Puts `replacement` in the place of `text`, the beginning of the pending text; the hook is called again on the rest. */
export function redact(text, replacement, reason) {
  return { tag: 'replace', val: { bytes: utf8Length(text), text: replacement, reason } };
}

/** Releases the beginning of the pending text and ends the answer. */
export function stop(text, reason) {
  return { tag: 'stop', val: { release: utf8Length(text), reason } };
}

/** Puts a text in the place of the pending text; the model goes on behind it. */
export function force(text, reason) {
  return { tag: 'force', val: { text, reason } };
}

/** A request goes on with these messages: a list of `{ role, content }`. */
export function rewriteRequest(messages, reason) {
  return { tag: 'rewrite', val: { messages, reason } };
}

/** A tool call goes on with these arguments (a JSON object as text), or a tool's result as this text. */
export function rewrite(text, reason) {
  return { tag: 'rewrite', val: { text, reason } };
}

/** A tool call is not made; the model is told so. */
export function deny(reason) {
  return { tag: 'deny', val: reason };
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

/**
 * A policy as the contract has it. `start` gets the parameters as `Fields` and gives an object with any of the hooks
 * `request(messages)`, `prompt(rendered)`, `output(pending, done)`, `toolCall(call)`, `toolResult(call, output)` and
 * `finish(released)`; those that are left out let pass. An instance lives for one answer.
 */
export function policy(start) {
  let plugin;
  const hook = (name, otherwise) => (...given) => saying(() => (plugin[name] ? plugin[name](...given) : otherwise(...given)));
  return {
    configure(parameters) {
      return saying(() => {
        const fields = new Fields('parameters', parameters);
        plugin = start(fields);
        fields.end();
      });
    },
    request: hook('request', () => ALLOW),
    prompt: hook('prompt', () => ALLOW),
    output: hook('output', release),
    toolCall: hook('toolCall', () => ALLOW),
    toolResult: hook('toolResult', () => ALLOW),
    finish: hook('finish', () => undefined),
  };
}
