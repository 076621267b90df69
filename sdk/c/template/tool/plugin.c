/* Counts the words of a text. */
#include "tool.h"

#include <stdio.h>
#include <string.h>

const tool_t tools[] = {{
    .name = "count_words",
    .description = "Counts the words of a text.",
    .parameters = "{\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}, \"required\": [\"text\"]}",
}};
const size_t tool_count = 1;

const char *tool_configure(object_t *parameters) {
    (void)parameters;
    return NULL;
}

const char *tool_call(const char *name, object_t *arguments, const char **result) {
    (void)name;
    static char number[16];
    size_t words = 0;
    bool within = false;
    for (const char *at = object_text(arguments, "text", NULL); *at; at++) {
        bool blank = strchr(" \t\r\n", *at) != NULL;
        words += !blank && !within;
        within = !blank;
    }
    snprintf(number, sizeof number, "%zu", words);
    *result = number;
    return NULL;
}
