/* Keeps a text out of every answer. */
#include "policy.h"

#include <string.h>

/* Bytes before the text that go out in one replacement with it: a replacement has at most 64 KiB. */
#define MOST_BEFORE 32768

static const reason_t reason = {"my-policy", "The text is not to be seen."};
static const text_t redacted = {"[redacted]", 10};
static const char *text;
static size_t length;

const char *policy_configure(object_t *parameters) {
    text = object_text(parameters, "text", NULL);
    length = strlen(text);
    return length ? NULL : "text: is empty";
}

/* Where the text, or what may become it, starts; the length of what is pending if nowhere. */
static size_t find(text_t pending, bool done) {
    for (size_t start = 0; start < pending.length; start++) {
        size_t left = pending.length - start;
        if (left < length && done) {
            break;
        }
        if (memcmp(pending.bytes + start, text, left < length ? left : length) == 0) {
            return start;
        }
    }
    return pending.length;
}

const char *policy_output(text_t pending, bool done, output_verdict_t *verdict) {
    size_t start = find(pending, done);
    bool whole = pending.length - start >= length;
    if (!whole || (start > 0 && !done)) {
        release(verdict, start);
        return NULL;
    }
    if (start > MOST_BEFORE) {
        size_t before = MOST_BEFORE;
        while ((pending.bytes[before] & 0xc0) == 0x80) {
            before--;
        }
        redact(verdict, before, (text_t){pending.bytes, before}, reason);
        return NULL;
    }
    /* At the end of an answer there can be text before a match, which goes out with the replacement. */
    static char replacement[MOST_BEFORE + 16];
    memcpy(replacement, pending.bytes, start);
    memcpy(replacement + start, redacted.bytes, redacted.length);
    redact(verdict, start + length, (text_t){replacement, start + redacted.length}, reason);
    return NULL;
}
