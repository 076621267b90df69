/* Keeps the words of a list out of requests, answers and the results of tools.
 *
 * An answer arrives in pieces. What may become a word is held back until more has come; at each place the longest word counts.
 * So the pieces in which an answer arrives never change what is released. */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/* Bytes before a word that go out in one replacement with it: a replacement has at most 64 KiB. */
#define MOST_BEFORE 24576

static const reason_t reason = {"word-list", "The list has the word."};
static const char **words;
static size_t word_count;
static const char *replacement;

const char *policy_configure(object_t *parameters) {
    words = object_texts(parameters, "words", &word_count);
    replacement = object_text(parameters, "replacement", "[...]");
    bool empty = word_count == 0;
    for (size_t index = 0; index < word_count; index++) {
        empty |= !*words[index];
    }
    return empty ? "words: there must be one, and none empty" : NULL;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c; }

/* Finds the first word and gives where it starts; `length` is 0 where what starts there may only become one. */
static size_t search(text_t text, bool done, size_t *length) {
    *length = 0;
    for (size_t start = 0; start < text.length; start++) {
        size_t longest = 0;
        for (size_t index = 0; index < word_count; index++) {
            const char *word = words[index];
            size_t equal = 0;
            while (word[equal] && start + equal < text.length && lower(text.bytes[start + equal]) == lower(word[equal])) {
                equal++;
            }
            if (!word[equal]) {
                longest = equal > longest ? equal : longest;
            } else if (start + equal == text.length && !done) {
                return start;
            }
        }
        if (longest > 0) {
            *length = longest;
            return start;
        }
    }
    return text.length;
}

const char *policy_request(const message_t *messages, size_t count, request_verdict_t *verdict) {
    size_t length = 0;
    if (count > 0) {
        search(text_of(&messages[count - 1].content), true, &length);
    }
    if (length > 0) {
        refuse_request(verdict, "Your message has a word that is not allowed here.", reason);
    }
    return NULL;
}

const char *policy_output(text_t pending, bool done, output_verdict_t *verdict) {
    size_t length, start = search(pending, done, &length);
    if (length == 0 || (start > 0 && !done)) {
        release(verdict, start);
        return NULL;
    }
    /* At the end of an answer there can be text before a word, which goes out with the replacement. */
    size_t before = start;
    if (start > MOST_BEFORE) {
        for (before = MOST_BEFORE; (pending.bytes[before] & 0xc0) == 0x80;) {
            before--;
        }
        redact(verdict, before, (text_t){pending.bytes, before}, reason);
        return NULL;
    }
    size_t added = strlen(replacement);
    char *text = malloc(start + added);
    if (!text) {
        return "out of memory";
    }
    memcpy(text, pending.bytes, start);
    memcpy(text + start, replacement, added);
    redact(verdict, start + length, (text_t){text, start + added}, reason);
    free(text);
    return NULL;
}

const char *policy_tool_result(const invocation_t *call, text_t output, tool_result_verdict_t *verdict) {
    (void)call;
    size_t length, added = strlen(replacement), cleaned = 0;
    /* A word has at least one byte. */
    char *text = malloc(output.length * (added + 1) + 1);
    text_t rest = output;
    if (!text) {
        return "out of memory";
    }
    for (;;) {
        size_t start = search(rest, true, &length);
        memcpy(text + cleaned, rest.bytes, start);
        cleaned += start;
        if (length == 0) {
            break;
        }
        memcpy(text + cleaned, replacement, added);
        cleaned += added;
        rest = (text_t){rest.bytes + start + length, rest.length - start - length};
    }
    if (rest.length < output.length) {
        rewrite_tool_result(verdict, (text_t){text, cleaned}, reason);
    }
    free(text);
    return NULL;
}
