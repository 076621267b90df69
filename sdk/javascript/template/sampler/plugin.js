// Begins every answer with a given text.

import { PASS, sampler, token, vocabulary } from './sdk/sampler.js';

export const samplerPlugin = sampler((parameters) => {
  const left = [...vocabulary.encode(parameters.text('text'))];
  return {
    sample() {
      return left.length > 0 ? token(left.shift()) : PASS;
    },
  };
});
