/* The fields of a JSON object: a plugin's parameters, or the arguments of a tool.
 *
 * The first thing that is wrong is kept in `error`, and whatever is read after it has its default: read all fields, then
 * look once. The SDK looks when `configure` returns, and refuses parameters that were not read. When a tool returns it looks,
 * too; one that has an effect looks itself before that. */
#ifndef MEMBRANE_JSON_H
#define MEMBRANE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* More fields than this are an error. */
#define OBJECT_FIELDS 64

typedef struct {
    char *name;
    /* Where the value stands in the text. */
    const char *value;
    size_t length;
    bool read;
} object_field_t;

typedef struct {
    object_field_t fields[OBJECT_FIELDS];
    size_t count;
    /* Texts and lists that were read. */
    void **kept;
    size_t kept_count;
    /* What is wrong, for people; empty if nothing is. */
    char error[256];
} object_t;

/* Bytes of a text, at most so many, of which the last is the end of a character. The text ends with a zero, or has more bytes. */
size_t text_within(const char *text, size_t most);

/* Reads an object; `text` must outlive it. A field that stands there twice is an error. */
void object_open(object_t *object, const char *text, size_t length);

/* Notes a field that was not read as an error: "unknown field `x`". */
void object_end(object_t *object);

/* Notes a field that another object does not have as an error, in the same words. */
void object_only(object_t *object, const object_t *named);

/* Frees what reading took. Texts and lists that were read stay: those of parameters for good. */
void object_close(object_t *object);

/* Frees the texts and lists that were read, too; the SDK does so with the arguments of a tool, when the call is over. */
void object_drop(object_t *object);

/* Whether the object has the field. */
bool object_has(object_t *object, const char *name);

/* A field that is true or false. */
bool object_flag(object_t *object, const char *name, bool otherwise);

/* A whole number between two others. */
int64_t object_integer(object_t *object, const char *name, int64_t otherwise, int64_t least, int64_t most);

/* A number between two others. */
double object_number(object_t *object, const char *name, double otherwise, double least, double most);

/* A text. Without a default (NULL) the field must be there. */
const char *object_text(object_t *object, const char *name, const char *otherwise);

/* A list of texts; the field must be there. `count` is set to their number. */
const char **object_texts(object_t *object, const char *name, size_t *count);

#endif
