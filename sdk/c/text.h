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

/* Texts that are made here live to the end of the instance, and are ended by a zero. Where there is no memory left, the
 * plugin ends. */

/* A text as a JSON string, with its quotation marks; for the arguments of tools. */
text_t json_quoted(text_t text);

/* Texts one after the other, as one; `count` of them. */
text_t text_joined(const text_t *texts, size_t count);

/* A text in the form of printf; at most 1,023 bytes of it. */
text_t text_printed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Room for something that lives as long. */
void *text_room(size_t bytes);

#endif
