// Fields, and what of tools, samplers and agents runs outside of a host, whose interfaces are empty here: `node tool.mjs`.

import assert from 'node:assert/strict';
import { lines, thrown } from './host.mjs';

const { Fields } = await import('../fields.js');
const { tools } = await import('../tool.js');
const { PASS, sampler, token } = await import('../sampler.js');
const { agent } = await import('../agent.js');

// A field may be read again, and is known from then on.
const fields = new Fields('parameters', '{"a": "x", "b": 2, "c": ["y"], "__proto__": 1}');
for (let time = 0; time < 2; time++) {
  assert.equal(fields.text('a'), 'x');
  assert.equal(fields.integer('b', 7, 0, 9), 2);
  assert.deepEqual(fields.texts('c', []), ['y']);
  assert.ok(fields.has('a') && !fields.has('d'));
}
assert.equal(fields.text('d', 'z'), 'z');
assert.equal(thrown(() => fields.text('b')), 'parameters: b: is not a text');
assert.equal(thrown(() => fields.text('d')), 'parameters: missing field `d`');
assert.deepEqual(fields.unread(), ['__proto__']);
assert.equal(thrown(() => fields.end()), 'parameters: unknown field `__proto__`');
assert.equal(thrown(() => fields.only(['a', 'b', '__proto__'])), 'parameters: unknown field `c`');

/** Calls a tool with a schema, which reads the argument `a`; gives what came of it, how often it was called, and its log. */
function called(schema, args, result = () => 'done') {
  let calls = 0;
  const call = (given) => {
    calls++;
    given.text('a', '');
    return result();
  };
  const plugin = tools(() => [{ name: 't', description: '', parameters: schema, call }]);
  plugin.configure('{}');
  lines.length = 0;
  let came;
  const wrong = thrown(() => (came = plugin.call('t', args)));
  return [wrong || came, calls, ...lines.map((line) => line.join(' '))];
}

// What a schema does not name is refused before the call has an effect, unless the schema allows it.
const properties = { a: { type: 'string' }, unused: {} };
const refused = ['arguments: unknown field `b`', 0];
const logged = ['done', 1, 'warning t: did not read the argument `b`'];
for (const [schema, outcome] of [
  [{ properties }, refused],
  [{ properties, required: ['a'], additionalProperties: false }, refused],
  [{ properties, unevaluatedProperties: false }, refused],
  [{ properties, anyOf: [{ required: ['a'] }], additionalProperties: false }, refused],
  [{ properties: {} }, refused],
  [{ additionalProperties: false }, refused],
  [{ type: 'object' }, logged],
  [{ properties, additionalProperties: true }, logged],
  [{ properties, additionalProperties: { type: 'string' } }, logged],
  [{ properties, unevaluatedProperties: {} }, logged],
  [{ properties, allOf: [{ properties: { b: {} } }] }, logged],
  [{ properties, patternProperties: { '^b': {} }, additionalProperties: false }, logged],
]) {
  assert.deepEqual(called(schema, '{"b": 1}'), outcome, JSON.stringify(schema));
}
// What it names and the call did not read is no concern of the model.
assert.deepEqual(called({ properties }, '{"a": "x", "unused": 1}'), ['done', 1]);
assert.deepEqual(called({ properties }, '{"a": 1}'), ['arguments: a: is not a text', 1]);
assert.deepEqual(called({ properties }, '[]'), ['arguments: is no JSON object', 0]);

// A tool gives a text, or what is plainly one; so does an agent, or nothing.
const ran = (result) => {
  const plugin = agent(() => ({ run: () => result }));
  plugin.configure('{}');
  let came;
  return thrown(() => (came = plugin.run(''))) || came;
};
for (const [result, text] of [['x', 'x'], ['', ''], [3, '3'], [0, '0'], [5n, '5'], [false, 'false']]) {
  assert.equal(called({ properties }, '{}', () => result)[0], text);
  assert.equal(ran(result), text);
}
for (const [result, kind] of [[{}, 'an object'], [['x'], 'an object'], [() => 'x', 'a function'], [Symbol('x'), 'a symbol']]) {
  assert.equal(called({ properties }, '{}', () => result)[0], `t: gives ${kind} in place of a text`);
  assert.equal(ran(result), `run: gives ${kind} in place of a text`);
}
for (const nothing of [undefined, null]) {
  assert.equal(called({ properties }, '{}', () => nothing)[0], `t: gives ${nothing} in place of a text`);
  assert.equal(ran(nothing), '');
}
assert.match(called({ properties }, '{}', async () => 'x')[0], /^t: gives a promise/);
assert.match(ran(Promise.resolve('x')), /^run: gives a promise/);

// A sampler gives a token, or passes.
const sampled = (choice) => {
  const plugin = sampler(() => ({ sample: () => choice }));
  plugin.configure('{}');
  return thrown(() => assert.equal(plugin.sample(), choice));
};
for (const choice of [PASS, token(0), token(2 ** 32 - 1)]) {
  assert.equal(sampled(choice), '');
}
for (const number of [undefined, null, NaN, 1.5, -1, 2 ** 32, '1', true, 1n]) {
  assert.match(sampled(token(number)), /^sample: gives token .+ \([a-z]+\), not a whole number from 0 to 4294967295$/);
}
assert.match(sampled(undefined), /^sample: gives undefined in place of/);
