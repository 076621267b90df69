/* Texts that are quoted, joined, printed and cut. Natively; tests/tests/c_sdk.rs compiles it with the compiler's checks of
 * memory. */
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void membrane_string_dup_n(membrane_string_t *string, const char *bytes, size_t length) {
    string->ptr = text_room(length);
    string->len = length;
    memcpy(string->ptr, bytes, length);
}

static void expect(text_t found, const char *wanted) {
    if (found.length != strlen(wanted) || memcmp(found.bytes, wanted, found.length + 1) != 0) {
        printf("%.*s and not %s\n", (int)found.length, found.bytes, wanted);
        exit(1);
    }
}

static void quotes(void) {
    expect(json_quoted(text_from("")), "\"\"");
    expect(json_quoted(text_from("a\"b\\c\n\x1f\x7f \xc3\xbc")), "\"a\\\"b\\\\c\\u000a\\u001f\x7f \xc3\xbc\"");
    expect(json_quoted((text_t){"\0", 1}), "\"\\u0000\"");
    /* Not ended by a zero. */
    char *three = malloc(3);
    memcpy(three, "\"\"\"", 3);
    expect(json_quoted((text_t){three, 3}), "\"\\\"\\\"\\\"\"");
    free(three);
}

static void joins(void) {
    expect(text_joined(NULL, 0), "");
    expect(text_joined((text_t[]){text_from("a"), {"bcd", 2}, text_from("")}, 3), "abc");
    membrane_string_t string = copied(text_from("xyz"));
    expect(text_joined((text_t[]){text_of(&string)}, 1), "xyz");
}

/* What is cut is whole characters of UTF-8, wherever the cut falls. */
static void prints_and_cuts(void) {
    expect(text_printed("%d %s", 7, "rows"), "7 rows");
    for (size_t before = 1015; before < 1030; before++) {
        char *text = calloc(1, before + 9);
        memset(text, 'x', before);
        strcat(text, "\xc3\xbc\xf0\x9f\x98\x80zz");
        text_t printed = text_printed("%s", text);
        size_t whole[] = {before, before + 2, before + 6, before + 7, before + 8};
        bool fits = printed.length < 1024 && strlen(printed.bytes) == printed.length;
        bool ends = before >= 1023 && printed.length == 1023;
        for (size_t index = 0; index < 5; index++) {
            ends = ends || printed.length == whole[index];
        }
        if (!fits || !ends || memcmp(printed.bytes, text, printed.length) != 0) {
            printf("%zu bytes before: cut to %zu\n", before, printed.length);
            exit(1);
        }
        free(text);
    }
}

int main(void) {
    quotes();
    joins();
    prints_and_cuts();
    printf("ok\n");
    return 0;
}
