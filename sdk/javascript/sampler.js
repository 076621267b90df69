// What a sampler is made of: `export const samplerPlugin = sampler((parameters) => ({ sample() { ... } }))`.

import { Fields, saying, settled } from './fields.js';

export * as history from 'membrane:plugin/history@0.1.0';
export * as log from 'membrane:plugin/log@0.1.0';
export * as logits from 'membrane:plugin/logits@0.1.0';
export * as random from 'membrane:plugin/random@0.1.0';
export * as vocabulary from 'membrane:plugin/vocabulary@0.1.0';

/** The next sampler of the chain chooses. */
export const PASS = Object.freeze({ tag: 'pass' });

/** This token is next. */
export function token(number) {
  return { tag: 'token', val: number };
}

/**
 * A sampler as the contract has it. `start` gets the parameters as `Fields` and gives an object with `sample()`, which is
 * called once for each token and gives `token(number)` or `PASS`. An instance lives for one answer.
 */
export function sampler(start) {
  let plugin;
  return {
    configure(parameters) {
      return saying(() => {
        const fields = new Fields('parameters', parameters);
        plugin = start(fields);
        fields.end();
      });
    },
    sample() {
      return saying(() => {
        const choice = settled('sample', plugin.sample());
        if (choice?.tag === undefined) {
          throw `sample: gives ${choice} in place of \`token(number)\` or \`PASS\``;
        }
        // The bindings would make token 0 of NaN, and 1 of 1.5.
        if (choice.tag === 'token' && !(Number.isInteger(choice.val) && choice.val >= 0 && choice.val < 2 ** 32)) {
          throw `sample: gives token ${String(choice.val)} (${typeof choice.val}), not a whole number from 0 to ${2 ** 32 - 1}`;
        }
        return choice;
      });
    },
  };
}
