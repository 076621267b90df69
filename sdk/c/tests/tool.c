/* Arguments that a schema names and does not name, and calls that read them or not. Natively, with the log played here;
 * tests/tests/c_sdk.rs compiles it with the compiler's checks of memory. */
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROPERTIES "\"properties\": {\"a\": {\"type\": \"string\"}, \"unused\": {}}"

/* Tools that read the argument `a`. The first six have schemas that allow only what they name. */
#define REFUSING 6
const tool_t tools[] = {
    {"1", "", "{" PROPERTIES "}"},
    {"2", "", "{" PROPERTIES ", \"required\": [\"a\"], \"additionalProperties\": false}"},
    {"3", "", "{" PROPERTIES ", \"unevaluatedProperties\" : false }"},
    {"4", "", "{" PROPERTIES ", \"anyOf\": [{\"required\": [\"a\"]}], \"additionalProperties\": false}"},
    {"5", "", "{\"properties\": {}}"},
    {"6", "", "{\"additionalProperties\": false}"},
    {"7", "", "{\"type\": \"object\"}"},
    {"8", "", "{" PROPERTIES ", \"additionalProperties\": true}"},
    {"9", "", "{" PROPERTIES ", \"additionalProperties\": {\"type\": \"string\"}}"},
    {"10", "", "{" PROPERTIES ", \"unevaluatedProperties\": {}}"},
    {"11", "", "{" PROPERTIES ", \"allOf\": [{\"properties\": {\"b\": {}}}]}"},
    {"12", "", "{" PROPERTIES ", \"patternProperties\": {\"^b\": {}}, \"additionalProperties\": false}"},
    {"13", "", "{\"properties\": 1}"},
};
const size_t tool_count = sizeof tools / sizeof *tools;

static int calls;
static char logged[512];

const char *tool_configure(object_t *parameters) {
    object_flag(parameters, "quiet", false);
    return NULL;
}

const char *tool_call(const char *name, object_t *arguments, const char **result) {
    (void)name;
    calls++;
    const char *text = object_text(arguments, "a", "");
    *result = "done";
    return strcmp(text, "fail") == 0 ? "failed" : NULL;
}

void membrane_plugin_log_write(membrane_plugin_log_level_t level, membrane_string_t *text) {
    bool warns = level == MEMBRANE_PLUGIN_LOG_LEVEL_WARNING;
    snprintf(logged, sizeof logged, "%s%.*s", warns ? "warning " : "", (int)text->len, (const char *)text->ptr);
}

void membrane_string_dup(membrane_string_t *string, const char *text) {
    string->len = strlen(text);
    string->ptr = malloc(string->len + 1);
    memcpy(string->ptr, text, string->len + 1);
}

void membrane_string_free(membrane_string_t *string) { free(string->ptr); }

static void expect(bool holds, const char *name, const char *arguments, const char *found) {
    if (!holds) {
        printf("tool %s with %s: %s; %d calls; log: %s\n", name, arguments, found, calls, logged);
        exit(1);
    }
}

/* Calls a tool; what comes of it, how often it was called, and its log must be these. */
static void comes(const char *name, const char *arguments, const char *outcome, int called, const char *log) {
    membrane_string_t strings[2], came[2] = {{NULL, 0}, {NULL, 0}};
    membrane_string_dup(&strings[0], name);
    membrane_string_dup(&strings[1], arguments);
    calls = 0;
    logged[0] = 0;
    bool good = exports_membrane_plugin_tool_plugin_call(&strings[0], &strings[1], &came[0], &came[1]);
    const char *found = (const char *)came[good ? 0 : 1].ptr;
    bool holds = strcmp(found, outcome) == 0 && calls == called && strcmp(logged, log) == 0;
    expect(holds && good == (strcmp(outcome, "done") == 0), name, arguments, found);
    membrane_string_free(&came[good ? 0 : 1]);
}

int main(void) {
    for (size_t index = 0; index < tool_count; index++) {
        const char *name = tools[index].name;
        char log[64];
        snprintf(log, sizeof log, "warning %s: did not read the argument `b`", name);
        bool refuses = index < REFUSING;
        comes(name, "{\"b\": 1}", refuses ? "arguments: unknown field `b`" : "done", !refuses, refuses ? "" : log);
        comes(name, "{}", "done", 1, "");
    }
    comes("1", "{\"a\": \"x\", \"unused\": 1}", "done", 1, "");
    comes("1", "{\"a\": 1}", "arguments: a: is not a text without zeros", 1, "");
    comes("1", "{\"a\": \"fail\"}", "failed", 1, "");
    comes("7", "{\"a\": \"fail\", \"b\": 1}", "failed", 1, "");
    comes("1", "[]", "arguments: is no JSON object that can be read", 0, "");

    membrane_string_t parameters, wrong = {NULL, 0};
    membrane_string_dup(&parameters, "{\"quiet\": true, \"loud\": true}");
    bool good = exports_membrane_plugin_tool_plugin_configure(&parameters, &wrong);
    expect(!good && strcmp((char *)wrong.ptr, "parameters: unknown field `loud`") == 0, "", "parameters", (char *)wrong.ptr);
    membrane_string_free(&wrong);

    exports_membrane_plugin_tool_plugin_list_description_t list;
    exports_membrane_plugin_tool_plugin_describe(&list);
    for (size_t index = 0; index < list.len; index++) {
        expect(strcmp((char *)list.ptr[index].parameters.ptr, tools[index].parameters) == 0, tools[index].name, "", "");
        membrane_string_free(&list.ptr[index].name);
        membrane_string_free(&list.ptr[index].description);
        membrane_string_free(&list.ptr[index].parameters);
    }
    free(list.ptr);
    puts("ok");
    return 0;
}
