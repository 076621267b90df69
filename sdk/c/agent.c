/* The exports of an agent, made of the functions of agent.h, and functions that make the contract short to call. */
#include "agent.h"

#include <stdlib.h>
#include <string.h>

static membrane_plugin_inference_borrow_session_t of(session_t session) {
    return membrane_plugin_inference_borrow_session(session);
}

/* A sentence that lasts, of what a function of the host has said. */
static const char *sentence(text_t text) {
    return text_joined(&text, 1).bytes;
}

static const char *why(const membrane_plugin_inference_inference_error_t *error) {
    switch (error->tag) {
    case MEMBRANE_PLUGIN_INFERENCE_INFERENCE_ERROR_OVERFLOW:
        return text_printed("the context has room for %u more tokens, and %u are needed", (unsigned)error->val.overflow.room,
                            (unsigned)error->val.overflow.needed)
            .bytes;
    case MEMBRANE_PLUGIN_INFERENCE_INFERENCE_ERROR_REFUSED:
        return sentence(text_of(&error->val.refused.message));
    case MEMBRANE_PLUGIN_INFERENCE_INFERENCE_ERROR_BUSY:
        return "a generation is running in this session";
    default:
        /* The others carry a sentence, at the same place. */
        return sentence(text_of(&error->val.failed));
    }
}

static turn_t turn(membrane_plugin_types_role_t role, text_t content) {
    turn_t turn = {0};
    turn.role = role;
    turn.content = lent(content);
    return turn;
}

turn_t turn_system(text_t content) { return turn(MEMBRANE_PLUGIN_TYPES_ROLE_SYSTEM, content); }

turn_t turn_user(text_t content) { return turn(MEMBRANE_PLUGIN_TYPES_ROLE_USER, content); }

turn_t turn_assistant(text_t content) { return turn(MEMBRANE_PLUGIN_TYPES_ROLE_ASSISTANT, content); }

turn_t turn_said(const completion_t *completion) {
    turn_t said = turn_assistant(text_of(&completion->text));
    said.calls = completion->calls;
    return said;
}

turn_t turn_result(text_t tool, text_t content) {
    turn_t result = turn(MEMBRANE_PLUGIN_TYPES_ROLE_TOOL, content);
    result.tool.is_some = true;
    result.tool.val = lent(tool);
    return result;
}

session_t session_new(void) { return membrane_plugin_inference_constructor_session(); }

const char *session_fork(session_t session, session_t *fork) {
    membrane_plugin_inference_inference_error_t error;
    return membrane_plugin_inference_method_session_fork(of(session), fork, &error) ? NULL : why(&error);
}

const char *session_chat(session_t session, const turn_t *turns, size_t count, bool tools) {
    membrane_plugin_inference_list_turn_t list = {(turn_t *)turns, count};
    membrane_plugin_inference_synced_t synced;
    membrane_plugin_inference_inference_error_t error;
    bool good = membrane_plugin_inference_method_session_chat(of(session), &list, tools, &synced, &error);
    return good ? NULL : why(&error);
}

const char *session_append(session_t session, text_t text) {
    membrane_string_t string = lent(text);
    uint32_t tokens;
    membrane_plugin_inference_inference_error_t error;
    bool good = membrane_plugin_inference_method_session_append(of(session), &string, &tokens, &error);
    return good ? NULL : why(&error);
}

const char *session_truncate(session_t session, uint32_t tokens) {
    membrane_plugin_inference_inference_error_t error;
    return membrane_plugin_inference_method_session_truncate(of(session), tokens, &error) ? NULL : why(&error);
}

uint32_t session_length(session_t session) { return membrane_plugin_inference_method_session_length(of(session)); }

uint32_t session_room(session_t session) { return membrane_plugin_inference_method_session_room(of(session)); }

const char *session_score(session_t session, const text_t *texts, size_t count, score_t *scores) {
    membrane_list_string_t list = {(membrane_string_t *)text_room(count * sizeof(membrane_string_t)), count};
    for (size_t index = 0; index < count; index++) {
        list.ptr[index] = lent(texts[index]);
    }
    membrane_plugin_inference_list_score_t found;
    membrane_plugin_inference_inference_error_t error;
    bool good = membrane_plugin_inference_method_session_score(of(session), &list, &found, &error);
    free(list.ptr);
    if (!good) {
        return why(&error);
    }
    memcpy(scores, found.ptr, count * sizeof *scores);
    membrane_plugin_inference_list_score_free(&found);
    return NULL;
}

const char *session_save(session_t session, text_t name) {
    membrane_string_t string = lent(name);
    membrane_plugin_inference_inference_error_t error;
    return membrane_plugin_inference_method_session_save(of(session), &string, &error) ? NULL : why(&error);
}

bool session_open(text_t name, session_t *session) {
    membrane_string_t string = lent(name);
    return membrane_plugin_inference_static_session_open(&string, session);
}

void session_drop(session_t session) { membrane_plugin_inference_session_drop_own(session); }

options_t options_new(void) {
    options_t options = {0};
    return options;
}

void options_at_most(options_t *options, uint32_t tokens) {
    options->max_tokens = (membrane_option_u32_t){true, tokens};
}

void options_until(options_t *options, text_t text) {
    if (!options->stop.ptr) {
        options->stop.ptr = (membrane_string_t *)text_room((OPTIONS_STOPS + 1) * sizeof(membrane_string_t));
    }
    /* One too many is kept, so that the host refuses the options and says why. */
    size_t place = options->stop.len <= OPTIONS_STOPS ? options->stop.len++ : OPTIONS_STOPS;
    options->stop.ptr[place] = lent(text);
}

static void constrain(options_t *options, uint8_t tag, text_t text) {
    options->constraint.is_some = true;
    options->constraint.val.tag = tag;
    /* All kinds are texts. */
    options->constraint.val.val.json_schema = lent(text);
}

void options_json_schema(options_t *options, text_t schema) {
    constrain(options, MEMBRANE_PLUGIN_INFERENCE_CONSTRAINT_JSON_SCHEMA, schema);
}

void options_regex(options_t *options, text_t expression) {
    constrain(options, MEMBRANE_PLUGIN_INFERENCE_CONSTRAINT_REGEX, expression);
}

void options_lark(options_t *options, text_t grammar) {
    constrain(options, MEMBRANE_PLUGIN_INFERENCE_CONSTRAINT_LARK, grammar);
}

void options_seed(options_t *options, uint64_t seed) { options->seed = (membrane_option_u64_t){true, seed}; }

void options_sampling(options_t *options, text_t parameters) {
    options->sampling = (membrane_option_string_t){true, lent(parameters)};
}

const char *session_generate(session_t session, const options_t *options, generation_t *generation) {
    options_t given = *options;
    membrane_plugin_inference_inference_error_t error;
    bool good = membrane_plugin_inference_method_session_generate(of(session), &given, generation, &error);
    return good ? NULL : why(&error);
}

const char *generation_next(generation_t generation, text_t *piece, bool *more) {
    membrane_option_string_t next;
    membrane_plugin_inference_inference_error_t error;
    membrane_plugin_inference_borrow_generation_t borrowed = membrane_plugin_inference_borrow_generation(generation);
    *more = false;
    *piece = (text_t){"", 0};
    if (!membrane_plugin_inference_method_generation_next(borrowed, &next, &error)) {
        return why(&error);
    }
    *more = next.is_some;
    if (next.is_some) {
        *piece = text_of(&next.val);
    }
    return NULL;
}

const char *generation_finish(generation_t generation, completion_t *completion) {
    membrane_plugin_inference_inference_error_t error;
    membrane_plugin_inference_borrow_generation_t borrowed = membrane_plugin_inference_borrow_generation(generation);
    memset(completion, 0, sizeof *completion);
    bool good = membrane_plugin_inference_method_generation_finish(borrowed, completion, &error);
    membrane_plugin_inference_generation_drop_own(generation);
    return good ? NULL : why(&error);
}

void generation_drop(generation_t generation) { membrane_plugin_inference_generation_drop_own(generation); }

const char *session_complete(session_t session, const options_t *options, completion_t *completion) {
    generation_t generation;
    const char *wrong = session_generate(session, options, &generation);
    return wrong ? wrong : generation_finish(generation, completion);
}

const char *tools_call(text_t name, text_t arguments, text_t *result) {
    invocation_t invocation = {lent(name), lent(arguments)};
    membrane_string_t given, error;
    *result = (text_t){"", 0};
    if (!membrane_plugin_tools_call(&invocation, &given, &error)) {
        return sentence(text_of(&error));
    }
    *result = text_of(&given);
    return NULL;
}

void output_write(text_t text) {
    membrane_string_t string = lent(text);
    membrane_plugin_output_write(&string);
}

/* Ends an export: true if nothing was wrong. */
static bool end(const char *wrong, membrane_string_t *err) {
    if (wrong) {
        membrane_string_dup(err, wrong);
    }
    return !wrong;
}

bool exports_membrane_plugin_agent_plugin_configure(membrane_string_t *parameters, membrane_string_t *err) {
    static object_t object;
    object_open(&object, (const char *)parameters->ptr, parameters->len);
    const char *wrong = agent_configure(&object);
    object_end(&object);
    if (object.error[0]) {
        wrong = text_printed("parameters: %s", object.error).bytes;
    }
    object_close(&object);
    membrane_string_free(parameters);
    return end(wrong, err);
}

bool exports_membrane_plugin_agent_plugin_run(membrane_string_t *task, membrane_string_t *answer, membrane_string_t *err) {
    text_t said = {"", 0};
    const char *wrong = agent_run(text_of(task), &said);
    if (!wrong) {
        *answer = copied(said);
    }
    return end(wrong, err);
}
