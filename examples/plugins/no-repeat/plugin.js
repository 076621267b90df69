// Never writes the same run of tokens twice: forbids each token that would complete a run that the text has already.

import { PASS, history, logits, sampler, token } from './sdk/sampler.js';

export const samplerPlugin = sampler((parameters) => {
  const size = parameters.integer('size', 3, 2, 16);
  const last = parameters.integer('last', 1024, 1, 65536);
  const choose = parameters.flag('choose', true);
  return {
    sample() {
      const banned = completing(history.tail(last), size);
      // Something has to be left.
      if (banned.length > 0 && banned.length < logits.count()) {
        logits.mask('forbid', banned);
      }
      return choose ? token(logits.draw().token) : PASS;
    },
  };
});

/** The tokens that would complete a run of `size` tokens that is in `tokens` already, in their order. */
function completing(tokens, size) {
  const begun = tokens.length - (size - 1);
  const found = new Set();
  for (let start = 0; begun > 0 && start < begun; start++) {
    let length = 0;
    while (length < size - 1 && tokens[start + length] === tokens[begun + length]) {
      length++;
    }
    if (length === size - 1) {
      found.add(tokens[start + length]);
    }
  }
  return [...found].sort((a, b) => a - b);
}
