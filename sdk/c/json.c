/* Reading a JSON object. The host hands over well-formed JSON; what is malformed all the same is an error here. */
#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values that are nested deeper than this are an error. */
#define MOST_NESTED 32
/* Bytes of a name that an error has, at most. */
#define PRINTED_NAME 64

typedef struct {
    const char *at;
    const char *end;
} cursor_t;

static void blanks(cursor_t *cursor) {
    while (cursor->at < cursor->end && strchr(" \t\r\n", *cursor->at) && *cursor->at) {
        cursor->at++;
    }
}

static bool take(cursor_t *cursor, char expected) {
    blanks(cursor);
    if (cursor->at == cursor->end || *cursor->at != expected) {
        return false;
    }
    cursor->at++;
    return true;
}

size_t text_within(const char *text, size_t most) {
    const char *end = memchr(text, 0, most + 1);
    if (end) {
        return (size_t)(end - text);
    }
    while (most > 0 && ((unsigned char)text[most] & 0xc0) == 0x80) {
        most--;
    }
    return most;
}

/* Notes the first thing that is wrong. */
static void wrong(object_t *object, const char *name, const char *what) {
    if (object->error[0]) {
        return;
    }
    snprintf(object->error, sizeof object->error, name ? "%s: %s" : "%.0s%s", name ? name : "", what);
}

/* The same, with the name of a field in `what` as "%.*s", or as much of it as one would read. */
static void about(object_t *object, const char *what, const char *name) {
    if (!object->error[0]) {
        snprintf(object->error, sizeof object->error, what, (int)text_within(name, PRINTED_NAME), name);
    }
}

/* Four hexadecimal digits; -1 if they are none. */
static int32_t unit(const char *at, const char *end) {
    if (end - at < 4) {
        return -1;
    }
    int32_t value = 0;
    for (int place = 0; place < 4; place++) {
        char digit = at[place];
        int32_t number = digit >= '0' && digit <= '9'   ? digit - '0'
                         : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                         : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                        : -1;
        if (number < 0) {
            return -1;
        }
        value = value * 16 + number;
    }
    return value;
}

/* Writes a character as UTF-8; gives its length. */
static size_t encode(uint32_t character, char *out) {
    if (character < 0x80) {
        out[0] = (char)character;
        return 1;
    }
    size_t length = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t place = length - 1; place > 0; place--) {
        out[place] = (char)(0x80 | (character & 0x3f));
        character >>= 6;
    }
    out[0] = (char)((0xf0u << (4 - length)) | character);
    return length;
}

/* The character of an escape \uXXXX, behind which the cursor stands at its digits; 0 if there is none. */
static uint32_t escaped(cursor_t *cursor) {
    int32_t first = unit(cursor->at, cursor->end);
    if (first < 0) {
        return 0;
    }
    cursor->at += 4;
    if (first < 0xd800 || first > 0xdfff) {
        return (uint32_t)first;
    }
    bool pair = cursor->end - cursor->at >= 6 && cursor->at[0] == '\\' && cursor->at[1] == 'u';
    int32_t second = pair ? unit(cursor->at + 2, cursor->end) : -1;
    if (first > 0xdbff || second < 0xdc00 || second > 0xdfff) {
        return 0;
    }
    cursor->at += 6;
    return 0x10000u + (((uint32_t)first - 0xd800u) << 10) + ((uint32_t)second - 0xdc00u);
}

/* Bytes of the string that the cursor stands in, as it is written. */
static size_t written(const cursor_t *cursor) {
    const char *at = cursor->at;
    while (at < cursor->end && *at != '"') {
        at += *at == '\\' && cursor->end - at > 1 ? 2 : 1;
    }
    return (size_t)(at - cursor->at);
}

/* A string, decoded and ended by a zero; NULL if there is none. One with a zero in it is none: C would cut it there. */
static char *string(cursor_t *cursor) {
    if (!take(cursor, '"')) {
        return NULL;
    }
    /* Decoded, it is never longer. */
    char *text = malloc(written(cursor) + 1);
    size_t length = 0;
    while (text && cursor->at < cursor->end && *cursor->at != '"') {
        char c = *cursor->at++;
        if (c != '\\') {
            text[length++] = c;
            continue;
        }
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        char kind = cursor->at < cursor->end ? *cursor->at++ : 0;
        const char *plain = kind ? strchr(from, kind) : NULL;
        uint32_t character = plain ? (uint32_t)(unsigned char)to[plain - from] : kind == 'u' ? escaped(cursor) : 0;
        if (!character) {
            free(text);
            return NULL;
        }
        length += encode(character, text + length);
    }
    if (!text || cursor->at == cursor->end) {
        free(text);
        return NULL;
    }
    cursor->at++;
    text[length] = 0;
    return text;
}

/* Skips a value of any kind. */
static bool skip(cursor_t *cursor) {
    int nested = 0;
    do {
        blanks(cursor);
        if (cursor->at == cursor->end) {
            return false;
        }
        char c = *cursor->at;
        if (c == '"') {
            char *text = string(cursor);
            free(text);
            if (!text) {
                return false;
            }
        } else if (c == '[' || c == '{') {
            cursor->at++;
            if (++nested > MOST_NESTED) {
                return false;
            }
        } else if (c == ']' || c == '}') {
            cursor->at++;
            nested--;
        } else if (c == ',' || c == ':') {
            cursor->at++;
        } else {
            while (cursor->at < cursor->end && *cursor->at && !strchr(",:]}[{\" \t\r\n", *cursor->at)) {
                cursor->at++;
            }
            if (cursor->at < cursor->end && !*cursor->at) {
                return false;
            }
        }
    } while (nested > 0);
    return nested == 0;
}

static bool members(object_t *object, cursor_t *cursor) {
    if (!take(cursor, '{')) {
        return false;
    }
    if (take(cursor, '}')) {
        return true;
    }
    do {
        if (object->count == OBJECT_FIELDS) {
            return false;
        }
        object_field_t *field = &object->fields[object->count];
        field->name = string(cursor);
        if (!field->name) {
            return false;
        }
        object->count++;
        for (const object_field_t *other = object->fields; other < field; other++) {
            if (strcmp(other->name, field->name) == 0) {
                about(object, "has the field `%.*s` twice", field->name);
                return false;
            }
        }
        if (!take(cursor, ':')) {
            return false;
        }
        blanks(cursor);
        field->value = cursor->at;
        if (!skip(cursor)) {
            return false;
        }
        field->length = (size_t)(cursor->at - field->value);
    } while (take(cursor, ','));
    return take(cursor, '}');
}

void object_open(object_t *object, const char *text, size_t length) {
    memset(object, 0, sizeof *object);
    cursor_t cursor = {text, text + length};
    if (!members(object, &cursor)) {
        wrong(object, NULL, "is no JSON object that can be read");
    }
}

void object_end(object_t *object) {
    for (size_t index = 0; index < object->count; index++) {
        if (!object->fields[index].read) {
            about(object, "unknown field `%.*s`", object->fields[index].name);
        }
    }
}

void object_only(object_t *object, const object_t *named) {
    for (size_t index = 0; index < object->count; index++) {
        const char *name = object->fields[index].name;
        size_t place = 0;
        while (place < named->count && strcmp(named->fields[place].name, name) != 0) {
            place++;
        }
        if (place == named->count) {
            about(object, "unknown field `%.*s`", name);
        }
    }
}

void object_close(object_t *object) {
    for (size_t index = 0; index < object->count; index++) {
        free(object->fields[index].name);
    }
    object->count = 0;
}

void object_drop(object_t *object) {
    object_close(object);
    for (size_t index = 0; index < object->kept_count; index++) {
        free(object->kept[index]);
    }
    free(object->kept);
    object->kept = NULL;
    object->kept_count = 0;
}

/* Remembers what was allocated for the reader of a field; frees it and gives NULL where there is no memory for that. */
static void *keep(object_t *object, void *made) {
    void **longer = made ? realloc(object->kept, (object->kept_count + 1) * sizeof *longer) : NULL;
    if (!longer) {
        free(made);
        return NULL;
    }
    object->kept = longer;
    object->kept[object->kept_count++] = made;
    return made;
}

static object_field_t *find(object_t *object, const char *name) {
    for (size_t index = 0; index < object->count; index++) {
        object_field_t *field = &object->fields[index];
        if (strcmp(field->name, name) == 0) {
            field->read = true;
            return object->error[0] ? NULL : field;
        }
    }
    return NULL;
}

bool object_has(object_t *object, const char *name) { return find(object, name) != NULL; }

bool object_flag(object_t *object, const char *name, bool otherwise) {
    object_field_t *field = find(object, name);
    if (!field) {
        return otherwise;
    }
    if (field->length == 4 && memcmp(field->value, "true", 4) == 0) {
        return true;
    }
    if (field->length != 5 || memcmp(field->value, "false", 5) != 0) {
        wrong(object, name, "is neither true nor false");
    }
    return false;
}

/* A number as it is written, ended by a zero; false if it is none, or a long one. */
static bool number_text(const object_field_t *field, char *text, size_t room) {
    bool begins = field->length > 0 && (field->value[0] == '-' || (field->value[0] >= '0' && field->value[0] <= '9'));
    if (!begins || field->length >= room) {
        return false;
    }
    memcpy(text, field->value, field->length);
    text[field->length] = 0;
    return true;
}

int64_t object_integer(object_t *object, const char *name, int64_t otherwise, int64_t least, int64_t most) {
    object_field_t *field = find(object, name);
    if (!field) {
        return otherwise;
    }
    char text[32], *end = text, what[128];
    errno = 0;
    int64_t value = number_text(field, text, sizeof text) ? strtoll(text, &end, 10) : 0;
    if (end == text || *end || errno) {
        wrong(object, name, "is not a whole number");
        return otherwise;
    }
    if (value < least || value > most) {
        snprintf(what, sizeof what, "%s is not between %lld and %lld", text, (long long)least, (long long)most);
        wrong(object, name, what);
        return otherwise;
    }
    return value;
}

double object_number(object_t *object, const char *name, double otherwise, double least, double most) {
    object_field_t *field = find(object, name);
    if (!field) {
        return otherwise;
    }
    char text[64], *end = text, what[160];
    double value = number_text(field, text, sizeof text) ? strtod(text, &end) : 0;
    if (end == text || *end) {
        wrong(object, name, "is not a number");
        return otherwise;
    }
    if (!(value >= least && value <= most)) {
        snprintf(what, sizeof what, "%s is not between %g and %g", text, least, most);
        wrong(object, name, what);
        return otherwise;
    }
    return value;
}

const char *object_text(object_t *object, const char *name, const char *otherwise) {
    object_field_t *field = find(object, name);
    if (!field) {
        if (!otherwise && !object->error[0]) {
            snprintf(object->error, sizeof object->error, "missing field `%s`", name);
        }
        return otherwise ? otherwise : "";
    }
    cursor_t cursor = {field->value, field->value + field->length};
    const char *text = keep(object, string(&cursor));
    if (!text) {
        wrong(object, name, "is not a text without zeros");
        return otherwise ? otherwise : "";
    }
    return text;
}

const char **object_texts(object_t *object, const char *name, size_t *count) {
    *count = 0;
    object_field_t *field = find(object, name);
    if (!field) {
        if (!object->error[0]) {
            snprintf(object->error, sizeof object->error, "missing field `%s`", name);
        }
        return NULL;
    }
    cursor_t cursor = {field->value, field->value + field->length};
    /* Each text takes at least two quotes and a comma of the value. */
    const char **texts = keep(object, calloc(field->length / 3 + 1, sizeof *texts));
    bool good = texts && take(&cursor, '[');
    if (good && take(&cursor, ']')) {
        return texts;
    }
    while (good) {
        const char *text = keep(object, string(&cursor));
        if (!text) {
            good = false;
            break;
        }
        texts[(*count)++] = text;
        if (!take(&cursor, ',')) {
            good = take(&cursor, ']');
            break;
        }
    }
    if (!good) {
        wrong(object, name, "is not a list of texts without zeros");
        *count = 0;
    }
    return texts;
}
