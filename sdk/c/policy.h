/* What a policy in C implements: `policy_configure`, and any of the hooks; those that are left out let pass. `membrane.h` is
 * written to build/bindings by each build, from the contract in wit/.
 *
 * Texts that are handed to a hook are the SDK's, and gone when it returns. Those that are handed to `redact` and the like
 * are copied. Each hook gives NULL, or a sentence that says what is wrong, which counts as a refusal. */
#ifndef MEMBRANE_POLICY_H
#define MEMBRANE_POLICY_H

#include "json.h"
#include "membrane.h"
#include "text.h"

typedef membrane_plugin_types_message_t message_t;
typedef membrane_plugin_types_invocation_t invocation_t;
typedef exports_membrane_plugin_policy_plugin_request_verdict_t request_verdict_t;
typedef exports_membrane_plugin_policy_plugin_prompt_verdict_t prompt_verdict_t;
typedef exports_membrane_plugin_policy_plugin_output_verdict_t output_verdict_t;
typedef exports_membrane_plugin_policy_plugin_tool_call_verdict_t tool_call_verdict_t;
typedef exports_membrane_plugin_policy_plugin_tool_result_verdict_t tool_result_verdict_t;

/* The clause of the policy that a verdict rests on, and a sentence for people. */
typedef struct {
    const char *clause;
    const char *note;
} reason_t;

/* Starts an answer; an instance lives for one. Wrong or unknown parameters are reported by the SDK. */
const char *policy_configure(object_t *parameters);

/* The request, before the chat template. The last message is the newest. */
const char *policy_request(const message_t *messages, size_t count, request_verdict_t *verdict);

/* The rendered prompt, as the model will read it. */
const char *policy_prompt(text_t rendered, prompt_verdict_t *verdict);

/* Text of the answer that no one has seen yet: what was held back before, and what is new. `done` is true once, at the end;
 * what is not released then is dropped. */
const char *policy_output(text_t pending, bool done, output_verdict_t *verdict);

/* A call that the model wants to make. */
const char *policy_tool_call(const invocation_t *call, tool_call_verdict_t *verdict);

/* What a tool gave back, before the model reads it. */
const char *policy_tool_result(const invocation_t *call, text_t output, tool_result_verdict_t *verdict);

/* All that was released, at the end of the answer. */
const char *policy_finish(text_t released);

/* Refuses: the person sees `message`. */
void refuse_request(request_verdict_t *verdict, const char *message, reason_t reason);
void refuse_prompt(prompt_verdict_t *verdict, const char *message, reason_t reason);
void refuse_output(output_verdict_t *verdict, const char *message, reason_t reason);
void refuse_tool_call(tool_call_verdict_t *verdict, const char *message, reason_t reason);
void refuse_tool_result(tool_result_verdict_t *verdict, const char *message, reason_t reason);

/* Releases this many bytes of the pending text, at a character boundary; the rest comes again with more. */
void release(output_verdict_t *verdict, size_t bytes);

/* Puts a text in the place of the first `bytes` bytes of the pending text; the hook is called again on the rest. */
void redact(output_verdict_t *verdict, size_t bytes, text_t replacement, reason_t reason);

/* Releases this many bytes and ends the answer. */
void stop(output_verdict_t *verdict, size_t bytes, reason_t reason);

/* Puts a text in the place of the pending text; the model goes on behind it. */
void force(output_verdict_t *verdict, text_t text, reason_t reason);

/* The call is made with these arguments, a JSON object. */
void rewrite_tool_call(tool_call_verdict_t *verdict, text_t arguments, reason_t reason);

/* The call is not made; the model is told so. */
void deny_tool_call(tool_call_verdict_t *verdict, reason_t reason);

/* The model sees this text instead. */
void rewrite_tool_result(tool_result_verdict_t *verdict, text_t output, reason_t reason);

#endif
