// What of policies runs outside of a host, whose interfaces are empty here: `node policy.mjs`.

import assert from 'node:assert/strict';
import { thrown } from './host.mjs';

const { ALLOW, policy } = await import('../policy.js');

/** What `configure` says of what a policy starts with; nothing if it is good. */
const wrong = (start) => thrown(() => policy(start).configure('{}'));

class Good {
  #more() {}
  _help() {}
  get size() {
    return 1;
  }
  toString() {
    return 'good';
  }
  request() {
    return ALLOW;
  }
}

class Misspelt extends Good {
  ouput() {}
}

for (const good of [() => new Good(), () => ({ output() {}, _help() {}, words: [] }), () => Object.create(null)]) {
  assert.equal(wrong(good), '');
}
for (const misspelt of [() => new Misspelt(), () => ({ ouput() {} }), () => ({ ouput: () => {} })]) {
  assert.match(wrong(misspelt), /`ouput` is no hook of a policy/);
}
for (const [start, given] of [[() => {}, 'undefined'], [() => Good, 'function'], [() => 3, 'number'], [() => null, 'null']]) {
  assert.match(wrong(start), new RegExp(`a policy is an object of hooks, and ${given} was given`));
}
assert.match(wrong(async () => ({})), /gives a promise/);
