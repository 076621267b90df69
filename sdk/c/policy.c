/* The exports of a policy, made of the functions of policy.h, and hooks that let pass. */
#include "policy.h"

#include <stdio.h>
#include <string.h>

#define HOOK __attribute__((weak)) const char *

HOOK policy_request(const message_t *messages, size_t count, request_verdict_t *verdict) {
    (void)messages, (void)count, (void)verdict;
    return NULL;
}

HOOK policy_prompt(text_t rendered, prompt_verdict_t *verdict) {
    (void)rendered, (void)verdict;
    return NULL;
}

HOOK policy_output(text_t pending, bool done, output_verdict_t *verdict) {
    (void)done;
    release(verdict, pending.length);
    return NULL;
}

HOOK policy_tool_call(const invocation_t *call, tool_call_verdict_t *verdict) {
    (void)call, (void)verdict;
    return NULL;
}

HOOK policy_tool_result(const invocation_t *call, text_t output, tool_result_verdict_t *verdict) {
    (void)call, (void)output, (void)verdict;
    return NULL;
}

HOOK policy_finish(text_t released) {
    (void)released;
    return NULL;
}

static membrane_plugin_types_reason_t because(reason_t reason) {
    return (membrane_plugin_types_reason_t){copied(text_from(reason.clause)), copied(text_from(reason.note))};
}

static exports_membrane_plugin_policy_plugin_refusal_t refusal(const char *message, reason_t reason) {
    return (exports_membrane_plugin_policy_plugin_refusal_t){copied(text_from(message)), because(reason)};
}

static exports_membrane_plugin_policy_plugin_rewritten_text_t rewritten(text_t text, reason_t reason) {
    return (exports_membrane_plugin_policy_plugin_rewritten_text_t){copied(text), because(reason)};
}

void refuse_request(request_verdict_t *verdict, const char *message, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_REQUEST_VERDICT_REFUSE;
    verdict->val.refuse = refusal(message, reason);
}

void refuse_prompt(prompt_verdict_t *verdict, const char *message, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_PROMPT_VERDICT_REFUSE;
    verdict->val.refuse = refusal(message, reason);
}

void refuse_output(output_verdict_t *verdict, const char *message, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_OUTPUT_VERDICT_REFUSE;
    verdict->val.refuse = refusal(message, reason);
}

void refuse_tool_call(tool_call_verdict_t *verdict, const char *message, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_CALL_VERDICT_REFUSE;
    verdict->val.refuse = refusal(message, reason);
}

void refuse_tool_result(tool_result_verdict_t *verdict, const char *message, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_RESULT_VERDICT_REFUSE;
    verdict->val.refuse = refusal(message, reason);
}

void release(output_verdict_t *verdict, size_t bytes) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_OUTPUT_VERDICT_RELEASE;
    verdict->val.release = (uint32_t)bytes;
}

void redact(output_verdict_t *verdict, size_t bytes, text_t replacement, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_OUTPUT_VERDICT_REPLACE;
    verdict->val.replace.bytes = (uint32_t)bytes;
    verdict->val.replace.text = copied(replacement);
    verdict->val.replace.reason = because(reason);
}

void stop(output_verdict_t *verdict, size_t bytes, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_OUTPUT_VERDICT_STOP;
    verdict->val.stop.release = (uint32_t)bytes;
    verdict->val.stop.reason = because(reason);
}

void force(output_verdict_t *verdict, text_t text, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_OUTPUT_VERDICT_FORCE;
    verdict->val.force.text = copied(text);
    verdict->val.force.reason = because(reason);
}

void rewrite_tool_call(tool_call_verdict_t *verdict, text_t arguments, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_CALL_VERDICT_REWRITE;
    verdict->val.rewrite = rewritten(arguments, reason);
}

void deny_tool_call(tool_call_verdict_t *verdict, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_CALL_VERDICT_DENY;
    verdict->val.deny = because(reason);
}

void rewrite_tool_result(tool_result_verdict_t *verdict, text_t output, reason_t reason) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_RESULT_VERDICT_REWRITE;
    verdict->val.rewrite = rewritten(output, reason);
}

/* Ends an export: true if nothing was wrong. */
static bool end(const char *wrong, membrane_string_t *err) {
    if (wrong) {
        membrane_string_dup(err, wrong);
    }
    return !wrong;
}

bool exports_membrane_plugin_policy_plugin_configure(membrane_string_t *parameters, membrane_string_t *err) {
    static object_t object;
    object_open(&object, (const char *)parameters->ptr, parameters->len);
    const char *wrong = policy_configure(&object);
    object_end(&object);
    char text[320];
    if (object.error[0]) {
        snprintf(text, sizeof text, "parameters: %s", object.error);
        wrong = text;
    }
    object_close(&object);
    membrane_string_free(parameters);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_request(exports_membrane_plugin_policy_plugin_list_message_t *messages,
                                                   request_verdict_t *verdict, membrane_string_t *err) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_REQUEST_VERDICT_ALLOW;
    const char *wrong = policy_request(messages->ptr, messages->len, verdict);
    exports_membrane_plugin_policy_plugin_list_message_free(messages);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_prompt(membrane_string_t *rendered, prompt_verdict_t *verdict,
                                                  membrane_string_t *err) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_PROMPT_VERDICT_ALLOW;
    const char *wrong = policy_prompt(text_of(rendered), verdict);
    membrane_string_free(rendered);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_output(membrane_string_t *pending, bool done, output_verdict_t *verdict,
                                                  membrane_string_t *err) {
    release(verdict, 0);
    const char *wrong = policy_output(text_of(pending), done, verdict);
    membrane_string_free(pending);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_tool_call(invocation_t *call, tool_call_verdict_t *verdict,
                                                     membrane_string_t *err) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_CALL_VERDICT_ALLOW;
    const char *wrong = policy_tool_call(call, verdict);
    membrane_plugin_types_invocation_free(call);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_tool_result(invocation_t *call, membrane_string_t *output,
                                                       tool_result_verdict_t *verdict, membrane_string_t *err) {
    verdict->tag = EXPORTS_MEMBRANE_PLUGIN_POLICY_PLUGIN_TOOL_RESULT_VERDICT_ALLOW;
    const char *wrong = policy_tool_result(call, text_of(output), verdict);
    membrane_plugin_types_invocation_free(call);
    membrane_string_free(output);
    return end(wrong, err);
}

bool exports_membrane_plugin_policy_plugin_finish(membrane_string_t *released, membrane_string_t *err) {
    const char *wrong = policy_finish(text_of(released));
    membrane_string_free(released);
    return end(wrong, err);
}
