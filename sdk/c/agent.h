/* What an agent in C implements, and what it does it with. `membrane.h` is written to build/bindings by each build, from the
 * contract in wit/, and has the same functions as the host has them.
 *
 * A function that can fail gives NULL, or a sentence that says what is wrong, which an agent may give back as it is; what
 * the function would have set is empty then. Texts that functions set are the SDK's and live to the end of the run. Texts
 * that are handed over are only read. */
#ifndef MEMBRANE_AGENT_H
#define MEMBRANE_AGENT_H

#include "json.h"
#include "membrane.h"
#include "text.h"

typedef membrane_plugin_inference_own_session_t session_t;
typedef membrane_plugin_inference_own_generation_t generation_t;
typedef membrane_plugin_inference_turn_t turn_t;
typedef membrane_plugin_inference_generation_options_t options_t;
typedef membrane_plugin_inference_completion_t completion_t;
typedef membrane_plugin_inference_score_t score_t;
typedef membrane_plugin_types_invocation_t invocation_t;

/* Starts a run; an instance lives for one. Wrong or unknown parameters are reported by the SDK. */
const char *agent_configure(object_t *parameters);

/* Does a task. `answer` is added to what was written with `output_write`. */
const char *agent_run(text_t task, text_t *answer);

/* Turns of a conversation. What they are made of must outlive them. */
turn_t turn_system(text_t content);
turn_t turn_user(text_t content);
turn_t turn_assistant(text_t content);
/* What a model said, and the calls that it made. */
turn_t turn_said(const completion_t *completion);
/* What a tool gave back. */
turn_t turn_result(text_t tool, text_t content);

/* An empty context; at most 64 at a time. `session_drop` ends it. */
session_t session_new(void);

/* A second session with the same context, which is shared and not copied. */
const char *session_fork(session_t session, session_t *fork);

/* Makes this the context of a conversation, by the model's chat template, up to where the assistant's next turn begins. With
 * `tools` the model is shown the tools of the run. */
const char *session_chat(session_t session, const turn_t *turns, size_t count, bool tools);

/* Appends a text as it is, without a chat template. */
const char *session_append(session_t session, text_t text);

/* Drops all but the first tokens. */
const char *session_truncate(session_t session, uint32_t tokens);

/* Tokens so far, and tokens that still fit. */
uint32_t session_length(session_t session);
uint32_t session_room(session_t session);

/* How likely each of `count` texts is behind the context, which stays as it is; fills `scores`. */
const char *session_score(session_t session, const text_t *texts, size_t count, score_t *scores);

/* Keeps the context under a name, and gives a session with the context of a name. `session_open` says whether there is one. */
const char *session_save(session_t session, text_t name);
bool session_open(text_t name, session_t *session);

void session_drop(session_t session);

/* Most stop texts of a generation. */
#define OPTIONS_STOPS 16

/* As many tokens as the context holds, without stop texts. Fields can be set by hand, too. */
options_t options_new(void);
/* At most so many tokens. */
void options_at_most(options_t *options, uint32_t tokens);
/* Ends before this text, which must outlive the options. */
void options_until(options_t *options, text_t text);
/* What the text must be: a JSON value that a JSON Schema allows, a text that an expression matches as a whole, a text of a grammar in
 * the Lark form of llguidance. Must outlive the options. */
void options_json_schema(options_t *options, text_t schema);
void options_regex(options_t *options, text_t expression);
void options_lark(options_t *options, text_t grammar);
/* Seed of the samplers, in the place of the next number of the run's random source. */
void options_seed(options_t *options, uint64_t seed);
/* Parameters in the place of those that the profile's last sampler has, a JSON object; must outlive the options. */
void options_sampling(options_t *options, text_t parameters);

/* Starts to generate a text behind the context; at most 16 at a time. `generation_finish` or `generation_drop` ends it. */
const char *session_generate(session_t session, const options_t *options, generation_t *generation);

/* More of the text; waits for it. `more` is false at the end. */
const char *generation_next(generation_t generation, text_t *piece, bool *more);

/* The whole text; waits for its end. The generation is over with this, also where it failed. */
const char *generation_finish(generation_t generation, completion_t *completion);

/* Cancels it; the session is as it was before. */
void generation_drop(generation_t generation);

/* Generates a text and waits for it. */
const char *session_complete(session_t session, const options_t *options, completion_t *completion);

/* Calls a tool of the run; `arguments` is a JSON object. */
const char *tools_call(text_t name, text_t arguments, text_t *result);

/* Adds text to the answer. */
void output_write(text_t text);

#endif
