/* The exports of a tool, made of what tool.h asks for. */
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends an export: true if nothing was wrong. What is wrong with the object comes first. */
static bool end(const char *what, object_t *object, const char *wrong, membrane_string_t *err) {
    object_end(object);
    char text[320];
    if (object->error[0]) {
        snprintf(text, sizeof text, "%s: %s", what, object->error);
        wrong = text;
    }
    if (wrong) {
        membrane_string_dup(err, wrong);
    }
    return !wrong;
}

bool exports_membrane_plugin_tool_plugin_configure(membrane_string_t *parameters, membrane_string_t *err) {
    static object_t object;
    object_open(&object, (const char *)parameters->ptr, parameters->len);
    const char *wrong = tool_configure(&object);
    bool good = end("parameters", &object, wrong, err);
    object_close(&object);
    membrane_string_free(parameters);
    return good;
}

void exports_membrane_plugin_tool_plugin_describe(exports_membrane_plugin_tool_plugin_list_description_t *list) {
    list->ptr = calloc(tool_count, sizeof *list->ptr);
    list->len = list->ptr ? tool_count : 0;
    for (size_t index = 0; index < list->len; index++) {
        membrane_string_dup(&list->ptr[index].name, tools[index].name);
        membrane_string_dup(&list->ptr[index].description, tools[index].description);
        membrane_string_dup(&list->ptr[index].parameters, tools[index].parameters);
    }
}

bool exports_membrane_plugin_tool_plugin_call(membrane_string_t *name, membrane_string_t *arguments,
                                              membrane_string_t *ret, membrane_string_t *err) {
    static object_t object;
    object_open(&object, (const char *)arguments->ptr, arguments->len);
    char *called = calloc(name->len + 1, 1);
    if (called) {
        memcpy(called, name->ptr, name->len);
    }
    const char *result = "";
    const char *wrong = called ? tool_call(called, &object, &result) : "out of memory";
    bool good = end("arguments", &object, wrong, err);
    if (good) {
        membrane_string_dup(ret, result);
    }
    object_drop(&object);
    free(called);
    membrane_string_free(name);
    membrane_string_free(arguments);
    return good;
}
