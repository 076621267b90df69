/* Makes a plan and answers by it. */
#include "agent.h"

#define PLAN "\n\nWrite a short plan of how to answer this. Don't answer it yet."
#define ANSWER "Now answer by this plan."

static options_t plan_options, answer_options;

const char *agent_configure(object_t *parameters) {
    options_at_most(&plan_options, (uint32_t)object_integer(parameters, "plan_tokens", 96, 8, 1024));
    options_at_most(&answer_options, (uint32_t)object_integer(parameters, "answer_tokens", 512, 8, 8192));
    return NULL;
}

/* What the model says next in a conversation. What the session holds of it already is not read again. */
static const char *say(session_t session, const turn_t *turns, size_t count, const options_t *options,
                       completion_t *completion) {
    const char *wrong = session_chat(session, turns, count, false);
    return wrong ? wrong : session_complete(session, options, completion);
}

const char *agent_run(text_t task, text_t *answer) {
    session_t session = session_new();
    text_t asked = text_joined((text_t[]){task, text_from(PLAN)}, 2);
    turn_t turns[3] = {turn_user(asked)};
    completion_t plan, said;
    const char *wrong = say(session, turns, 1, &plan_options, &plan);
    if (wrong) {
        return wrong;
    }
    turns[1] = turn_said(&plan);
    turns[2] = turn_user(text_from(ANSWER));
    wrong = say(session, turns, 3, &answer_options, &said);
    *answer = text_of(&said.text);
    return wrong;
}
