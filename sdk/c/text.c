/* Texts as the SDK and the bindings have them. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRINTED 1024

text_t text_of(const membrane_string_t *string) { return (text_t){(const char *)string->ptr, string->len}; }

text_t text_from(const char *words) { return (text_t){words, strlen(words)}; }

membrane_string_t lent(text_t text) { return (membrane_string_t){(uint8_t *)text.bytes, text.length}; }

membrane_string_t copied(text_t text) {
    membrane_string_t string;
    membrane_string_dup_n(&string, text.bytes, text.length);
    return string;
}

void *text_room(size_t bytes) {
    void *room = malloc(bytes ? bytes : 1);
    if (!room) {
        __builtin_trap();
    }
    return room;
}

text_t json_quoted(text_t text) {
    /* The longest form of a byte is \u00xx. */
    char *quoted = text_room(text.length * 6 + 3);
    size_t length = 0;
    quoted[length++] = '"';
    for (size_t index = 0; index < text.length; index++) {
        unsigned char byte = (unsigned char)text.bytes[index];
        if (byte == '"' || byte == '\\') {
            quoted[length++] = '\\';
        }
        if (byte < 0x20) {
            length += (size_t)snprintf(quoted + length, 7, "\\u%04x", byte);
        } else {
            quoted[length++] = (char)byte;
        }
    }
    quoted[length++] = '"';
    quoted[length] = 0;
    return (text_t){quoted, length};
}

text_t text_joined(const text_t *texts, size_t count) {
    size_t length = 0;
    for (size_t index = 0; index < count; index++) {
        length += texts[index].length;
    }
    char *joined = text_room(length + 1);
    char *at = joined;
    for (size_t index = 0; index < count; index++) {
        memcpy(at, texts[index].bytes, texts[index].length);
        at += texts[index].length;
    }
    *at = 0;
    return (text_t){joined, length};
}

text_t text_printed(const char *format, ...) {
    char *printed = text_room(PRINTED);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(printed, PRINTED, format, arguments);
    va_end(arguments);
    size_t fits = length < 0 ? 0 : length < PRINTED ? (size_t)length : PRINTED - 1;
    /* What was cut must not end within a character. */
    bool cut = length >= PRINTED;
    while (cut && fits > 0 && (printed[fits - 1] & 0xc0) == 0x80) {
        fits--;
    }
    fits -= cut && fits > 0 && (printed[fits - 1] & 0x80);
    printed[fits] = 0;
    return (text_t){printed, fits};
}
