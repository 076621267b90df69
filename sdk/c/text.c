/* Texts as the SDK and the bindings have them. */
#include "text.h"

#include <string.h>

text_t text_of(const membrane_string_t *string) { return (text_t){(const char *)string->ptr, string->len}; }

text_t text_from(const char *words) { return (text_t){words, strlen(words)}; }

membrane_string_t lent(text_t text) { return (membrane_string_t){(uint8_t *)text.bytes, text.length}; }

membrane_string_t copied(text_t text) {
    membrane_string_t string;
    membrane_string_dup_n(&string, text.bytes, text.length);
    return string;
}
