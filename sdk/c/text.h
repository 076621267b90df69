/* Texts as the SDK and the bindings have them. */
#ifndef MEMBRANE_TEXT_H
#define MEMBRANE_TEXT_H

#include "membrane.h"

/* Bytes of UTF-8 text, not ended by a zero. */
typedef struct {
    const char *bytes;
    size_t length;
} text_t;

/* A text of the bindings. */
text_t text_of(const membrane_string_t *string);

/* A text that is ended by a zero, such as a literal. */
text_t text_from(const char *words);

/* A text as one of the bindings, which is only lent: it is good for what a function of the host takes. */
membrane_string_t lent(text_t text);

/* A text as one of the bindings, copied: the host frees what an export hands it. */
membrane_string_t copied(text_t text);

#endif
