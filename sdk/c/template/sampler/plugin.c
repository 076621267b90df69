/* Begins every answer with a given text. */
#include "sampler.h"

#include <string.h>

/* What is left to say. */
static membrane_plugin_vocabulary_list_token_t tokens;
static size_t said;

const char *sampler_configure(object_t *parameters) {
    const char *text = object_text(parameters, "text", NULL);
    membrane_string_t string, error;
    membrane_string_set(&string, text);
    return membrane_plugin_vocabulary_encode(&string, &tokens, &error) ? NULL : failed(&error);
}

const char *sampler_sample(choice_t *choice) {
    if (said < tokens.len) {
        choose(choice, tokens.ptr[said++]);
    } else {
        pass(choice);
    }
    return NULL;
}
