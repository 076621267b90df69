// Counts the words of a text.

import { tools } from './sdk/tool.js';

export const toolPlugin = tools(() => [
  {
    name: 'count_words',
    description: 'Counts the words of a text.',
    parameters: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
    call(args) {
      return args.text('text').split(/[ \t\r\n]+/).filter((word) => word !== '').length;
    },
  },
]);
