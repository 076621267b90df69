/* Objects that are well-formed, that are wrong, and that are broken at random. Natively; tests/tests/c_sdk.rs compiles it with
 * the compiler's checks of memory. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 200000

static object_t object;

static void expect(bool holds, const char *what) {
    if (!holds) {
        printf("%s\n", what);
        exit(1);
    }
}

/* Reads all kinds of fields from a copy that ends where the text does. */
static void read_all(const char *text, size_t length) {
    char *copy = malloc(length ? length : 1);
    expect(copy != NULL, "out of memory");
    memcpy(copy, text, length);
    object_open(&object, copy, length);
    object_integer(&object, "a", 1, 0, 5);
    object_number(&object, "b", 1, -5, 5);
    expect(strlen(object_text(&object, "c", "x")) < 100, "a text is longer than its object");
    size_t count;
    const char **texts = object_texts(&object, "d", &count);
    for (size_t index = 0; index < count; index++) {
        expect(strlen(texts[index]) < 100, "a text is longer than its object");
    }
    object_flag(&object, "e", true);
    object_end(&object);
    object_drop(&object);
    free(copy);
}

static const char good[] = " {\"a\": 3, \"b\": -1.5e0, \"c\": \"x\\u00e9\\ud83d\\ude00\\n\\\"\", \"d\": [\"p\", \"q\\/\"], "
                           "\"e\": true, \"z\": {\"y\": [1, {\"]\": \"}\"}]}} ";

static void reads_what_is_there(void) {
    size_t count;
    object_open(&object, good, strlen(good));
    expect(object_integer(&object, "a", 1, 0, 5) == 3, "a");
    expect(object_number(&object, "b", 1, -5, 5) == -1.5, "b");
    expect(strcmp(object_text(&object, "c", NULL), "x\xc3\xa9\xf0\x9f\x98\x80\n\"") == 0, "c");
    const char **texts = object_texts(&object, "d", &count);
    expect(count == 2 && strcmp(texts[0], "p") == 0 && strcmp(texts[1], "q/") == 0, "d");
    expect(object_flag(&object, "e", false), "e");
    expect(!object_has(&object, "f") && object_integer(&object, "f", 7, 0, 9) == 7, "a default");
    object_end(&object);
    expect(strcmp(object.error, "unknown field `z`") == 0, object.error);
    object_drop(&object);
}

static void names_what_is_wrong(void) {
    static const char *const cases[][2] = {
        {"{\"a\": 3.5}", "a: is not a whole number"},
        {"{\"a\": 1e3}", "a: is not a whole number"},
        {"{\"a\": \"1\"}", "a: is not a whole number"},
        {"{\"a\": 99999999999999999999}", "a: is not a whole number"},
        {"{\"a\": 9}", "a: 9 is not between 0 and 5"},
        {"{\"b\": 9}", "b: 9 is not between -5 and 5"},
        {"{\"c\": 1}", "c: is not a text without zeros"},
        {"{\"d\": [1]}", "d: is not a list of texts without zeros"},
        {"{\"d\": [], \"e\": 1}", "e: is neither true nor false"},
        {"{\"d\": []}", ""},
        {"{\"a\": 1, \"a\": 1, \"d\": []}", "has the field `a` twice"},
        {"{\"d\": [], \"\\u0061\": 1, \"a\": 1}", "has the field `a` twice"},
        /* 63 bytes and a character of two. */
        {"{\"d\": [], \"123456789012345678901234567890123456789012345678901234567890123\xc3\xa9\": 1}",
         "unknown field `123456789012345678901234567890123456789012345678901234567890123`"},
        {"{}", "missing field `d`"},
        {"[]", "is no JSON object that can be read"},
        {"{\"c\": \"\\u0000\"}", "is no JSON object that can be read"},
        {"{\"c\": \"\\ud83d\"}", "is no JSON object that can be read"},
        {"", "is no JSON object that can be read"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof *cases; index++) {
        read_all(cases[index][0], strlen(cases[index][0]));
        expect(strcmp(object.error, cases[index][1]) == 0, cases[index][0]);
    }
}

static void survives_what_is_broken(void) {
    static const char parts[] = "{}[]\",:\\u0d8eE-+.t ";
    uint32_t state = 1;
    char text[sizeof good];
    size_t length = strlen(good);
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(text, good, length);
        for (int change = 0; change < 4; change++) {
            state = state * 1664525u + 1013904223u;
            size_t at = (state >> 8) % length;
            state = state * 1664525u + 1013904223u;
            text[at] = state >> 28 ? parts[(state >> 8) % (sizeof parts - 1)] : (char)(state >> 16);
        }
        state = state * 1664525u + 1013904223u;
        read_all(text, (state >> 8) % (length + 1));
    }
}

int main(void) {
    reads_what_is_there();
    names_what_is_wrong();
    survives_what_is_broken();
    puts("ok");
    return 0;
}
