/* Never writes the same run of tokens twice: forbids each token that would complete a run that the text has already. */
#include "sampler.h"

#include <stdlib.h>
#include <string.h>

static size_t size;
static uint32_t last;
static bool chooses;

const char *sampler_configure(object_t *parameters) {
    size = (size_t)object_integer(parameters, "size", 3, 2, 16);
    last = (uint32_t)object_integer(parameters, "last", 1024, 1, 65536);
    chooses = object_flag(parameters, "choose", true);
    return NULL;
}

static int by_number(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

/* Puts the tokens that would complete a run first, each once and in their order; gives how many there are. */
static size_t completing(uint32_t *tokens, size_t count) {
    if (count < size) {
        return 0;
    }
    uint32_t begun[16];
    size_t found = 0;
    memcpy(begun, tokens + count - (size - 1), (size - 1) * sizeof *tokens);
    for (size_t start = 0; start + size <= count; start++) {
        if (memcmp(tokens + start, begun, (size - 1) * sizeof *tokens) == 0) {
            /* What is overwritten lies before the run. */
            tokens[found++] = tokens[start + size - 1];
        }
    }
    qsort(tokens, found, sizeof *tokens, by_number);
    size_t kept = 0;
    for (size_t index = 0; index < found; index++) {
        if (index == 0 || tokens[index] != tokens[kept - 1]) {
            tokens[kept++] = tokens[index];
        }
    }
    return kept;
}

const char *sampler_sample(choice_t *choice) {
    membrane_plugin_history_list_token_t tail;
    membrane_plugin_history_tail(last, &tail);
    size_t banned = completing(tail.ptr, tail.len);
    membrane_plugin_logits_list_token_t tokens = {tail.ptr, banned};
    membrane_string_t error;
    bool good = true;
    /* Something has to be left. */
    if (banned > 0 && banned < membrane_plugin_logits_count()) {
        good = membrane_plugin_logits_mask(MEMBRANE_PLUGIN_LOGITS_MASK_KIND_FORBID, &tokens, &error);
    }
    membrane_plugin_history_list_token_free(&tail);
    if (good && chooses) {
        membrane_plugin_logits_drawn_t drawn;
        good = membrane_plugin_logits_draw(&drawn, &error);
        choose(choice, drawn.token);
    }
    return good ? NULL : failed(&error);
}
