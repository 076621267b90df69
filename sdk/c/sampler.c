/* The exports of a sampler, made of the functions of sampler.h. */
#include "sampler.h"

#include <stdio.h>
#include <string.h>

void choose(choice_t *choice, uint32_t token) {
    choice->tag = EXPORTS_MEMBRANE_PLUGIN_SAMPLER_PLUGIN_CHOICE_TOKEN;
    choice->val.token = token;
}

void pass(choice_t *choice) { choice->tag = EXPORTS_MEMBRANE_PLUGIN_SAMPLER_PLUGIN_CHOICE_PASS; }

const char *failed(membrane_string_t *error) {
    static char text[1024];
    size_t length = error->len < sizeof text ? error->len : sizeof text - 1;
    memcpy(text, error->ptr, length);
    text[length] = 0;
    if (length < error->len) {
        text[text_within(text, length - 1)] = 0;
    }
    membrane_string_free(error);
    return text;
}

bool exports_membrane_plugin_sampler_plugin_configure(membrane_string_t *parameters, membrane_string_t *err) {
    static object_t object;
    object_open(&object, (const char *)parameters->ptr, parameters->len);
    const char *wrong = sampler_configure(&object);
    object_end(&object);
    char text[320];
    if (object.error[0]) {
        snprintf(text, sizeof text, "parameters: %s", object.error);
        wrong = text;
    }
    object_close(&object);
    membrane_string_free(parameters);
    if (wrong) {
        membrane_string_dup(err, wrong);
    }
    return !wrong;
}

bool exports_membrane_plugin_sampler_plugin_sample(choice_t *choice, membrane_string_t *err) {
    pass(choice);
    const char *wrong = sampler_sample(choice);
    if (wrong) {
        membrane_string_dup(err, wrong);
    }
    return !wrong;
}
