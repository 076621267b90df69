// Keeps a text out of every answer.

import { policy, redact, release } from './sdk/policy.js';

const REASON = { clause: 'my-policy', note: 'The text is not to be seen.' };
const REDACTED = '[redacted]';
// Characters before the text that go out in one replacement with it: a replacement has at most 64 KiB.
const MOST_BEFORE = 8192;

export const policyPlugin = policy((parameters) => {
  const text = parameters.text('text');
  if (text === '') {
    throw 'text: is empty';
  }
  return {
    output(pending, done) {
      const start = pending.indexOf(text);
      if (start < 0) {
        return release(done ? pending : pending.slice(0, possibleStart(pending, text)));
      }
      if (start > 0 && !done) {
        return release(pending.slice(0, start));
      }
      // At the end of an answer there can be text before a match, which goes out with the replacement.
      if (start > MOST_BEFORE) {
        const before = [...pending.slice(0, MOST_BEFORE)].slice(0, -1).join('');
        return redact(before, before, REASON);
      }
      return redact(pending.slice(0, start + text.length), pending.slice(0, start) + REDACTED, REASON);
    },
  };
});

/** Where the end of `pending` may be the beginning of `text`; its length if nowhere. */
function possibleStart(pending, text) {
  for (let start = Math.max(0, pending.length - text.length + 1); start < pending.length; start++) {
    if (text.startsWith(pending.slice(start))) {
      return start;
    }
  }
  return pending.length;
}
