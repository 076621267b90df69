/* The exports of a tool, made of what tool.h asks for. */
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keywords by which a schema may allow arguments that its `properties` does not name, unless they are false. */
static const char *const opening[] = {
    "additionalProperties", "unevaluatedProperties", "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else",
    "dependentSchemas",
};

static bool opens(const char *keyword) {
    for (size_t index = 0; index < sizeof opening / sizeof *opening; index++) {
        if (strcmp(keyword, opening[index]) == 0) {
            return true;
        }
    }
    return false;
}

/* The schema of a tool's arguments; empty if there is no such tool. */
static const char *schema_of(const char *name) {
    for (size_t index = 0; index < tool_count; index++) {
        if (strcmp(tools[index].name, name) == 0) {
            return tools[index].parameters;
        }
    }
    return "";
}

/* Whether a schema allows only arguments that it names; opens their object. One that is too large to be read allows others. */
static bool names_all(const char *parameters, object_t *named) {
    static object_t schema;
    object_open(&schema, parameters, strlen(parameters));
    const object_field_t *properties = NULL;
    bool opened = false, closed = false, patterns = false;
    for (size_t index = 0; index < schema.count; index++) {
        const object_field_t *field = &schema.fields[index];
        bool no = field->length == 5 && memcmp(field->value, "false", 5) == 0;
        if (strcmp(field->name, "properties") == 0) {
            properties = field;
        }
        patterns = patterns || strcmp(field->name, "patternProperties") == 0;
        closed = closed || (no && strcmp(field->name, "additionalProperties") == 0);
        opened = opened || (!no && opens(field->name));
    }
    object_open(named, properties ? properties->value : "{}", properties ? properties->length : 2);
    object_close(&schema);
    return !schema.error[0] && !named->error[0] && !patterns && (closed || (properties && !opened));
}

/* Logs the arguments that a call did not read. */
static void log_unread(const char *name, const object_t *arguments) {
    for (size_t index = 0; index < arguments->count; index++) {
        const object_field_t *field = &arguments->fields[index];
        if (!field->read) {
            char text[256];
            int most = (int)text_within(field->name, 64);
            snprintf(text, sizeof text, "%.64s: did not read the argument `%.*s`", name, most, field->name);
            membrane_string_t line = {(uint8_t *)text, strlen(text)};
            membrane_plugin_log_write(MEMBRANE_PLUGIN_LOG_LEVEL_WARNING, &line);
        }
    }
}

/* Ends an export: true if nothing was wrong. What is wrong with the object comes first. */
static bool end(const char *what, const object_t *object, const char *wrong, membrane_string_t *err) {
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
    object_end(&object);
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
    static object_t object, named;
    object_open(&object, (const char *)arguments->ptr, arguments->len);
    char *called = calloc(name->len + 1, 1);
    if (called) {
        memcpy(called, name->ptr, name->len);
    }
    const char *schema = called ? schema_of(called) : "";
    bool closed = names_all(schema, &named);
    if (closed) {
        object_only(&object, &named);
    }
    const char *result = "";
    const char *wrong = called ? NULL : "out of memory";
    if (called && !object.error[0]) {
        wrong = tool_call(called, &object, &result);
    }
    bool good = end("arguments", &object, wrong, err);
    if (good) {
        /* It has had its effect: an argument that was not read does not take its result away. */
        membrane_string_dup(ret, result);
    }
    if (good && !closed) {
        log_unread(called, &object);
    }
    object_close(&named);
    object_drop(&object);
    free(called);
    membrane_string_free(name);
    membrane_string_free(arguments);
    return good;
}
