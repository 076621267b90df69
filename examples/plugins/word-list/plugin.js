// Keeps the words of a list out of requests, answers and the results of tools.
//
// An answer arrives in pieces. What may become a word is held back until more has come; at each place the longest word
// counts. So the pieces in which an answer arrives never change what is released.

import { ALLOW, policy, redact, refuse, release, rewrite } from './sdk/policy.js';

const REASON = { clause: 'word-list', note: 'The list has the word.' };
// Characters before a word that go out in one replacement with it: a replacement has at most 64 KiB.
const MOST_BEFORE = 8192;

export const policyPlugin = policy((parameters) => {
  const words = parameters.texts('words').map(lower);
  const replacement = parameters.text('replacement', '[...]');
  if (words.length === 0 || words.includes('')) {
    throw 'words: there must be one, and none empty';
  }
  return {
    request(messages) {
      const newest = messages.length > 0 ? messages[messages.length - 1].content : '';
      const { length } = search(newest, true);
      return length > 0 ? refuse('Your message has a word that is not allowed here.', REASON) : ALLOW;
    },
    output(pending, done) {
      const { start, length } = search(pending, done);
      if (length === 0 || (start > 0 && !done)) {
        return release(pending.slice(0, start));
      }
      // At the end of an answer there can be text before a word, which goes out with the replacement.
      if (start > MOST_BEFORE) {
        const before = [...pending.slice(0, MOST_BEFORE)].slice(0, -1).join('');
        return redact(before, before, REASON);
      }
      return redact(pending.slice(0, start + length), pending.slice(0, start) + replacement, REASON);
    },
    toolResult(_, output) {
      let cleaned = '';
      let rest = output;
      for (let found = search(rest, true); found.length > 0; found = search(rest, true)) {
        cleaned += rest.slice(0, found.start) + replacement;
        rest = rest.slice(found.start + found.length);
      }
      return rest.length < output.length ? rewrite(cleaned + rest, REASON) : ALLOW;
    },
  };

  /** The first word: where it starts, and its length, which is 0 where what starts there may only become one. */
  function search(text, done) {
    const folded = lower(text);
    for (let start = 0; start < folded.length; start++) {
      let longest = 0;
      for (const word of words) {
        if (folded.startsWith(word, start)) {
          longest = Math.max(longest, word.length);
        } else if (!done && word.startsWith(folded.slice(start, start + word.length))) {
          return { start, length: 0 };
        }
      }
      if (longest > 0) {
        return { start, length: longest };
      }
    }
    return { start: folded.length, length: 0 };
  }
});

/** Small letters of ASCII for its capital ones; the length stays. */
function lower(text) {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}
