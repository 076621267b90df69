/* The model as a judge, for policies with the grant `judge`: how likely it finds short texts behind a question. To be called in
 * any hook but `policy_configure`. The limits stand in wit/policy.wit.
 *
 * Both give NULL, or a sentence that says what is wrong, which a hook may give back as it is, and fill `scores` with the
 * natural logarithms of the probabilities of `count` continuations, at most 16. Where the model fails or is not there, they
 * do not return: the hook ends, as after a trap. */
#ifndef MEMBRANE_JUDGE_H
#define MEMBRANE_JUDGE_H

#include <string.h>

#include "membrane.h"
#include "text.h"

/* Most continuations of a question. */
#define JUDGE_CONTINUATIONS 16

static inline const char *judge_question(membrane_plugin_judge_question_t *question, const text_t *continuations, size_t count,
                                         double *scores) {
    membrane_string_t strings[JUDGE_CONTINUATIONS];
    if (count > JUDGE_CONTINUATIONS) {
        return "a question has at most 16 continuations";
    }
    for (size_t index = 0; index < count; index++) {
        strings[index] = lent(continuations[index]);
    }
    membrane_list_string_t list = {strings, count};
    membrane_list_f64_t found;
    membrane_string_t error;
    if (!membrane_plugin_judge_score(question, &list, &found, &error)) {
        text_t sentence = text_of(&error);
        return text_joined(&sentence, 1).bytes;
    }
    memcpy(scores, found.ptr, count * sizeof(double));
    membrane_list_f64_free(&found);
    return NULL;
}

/* Behind a text as it is, without a chat template. */
static inline const char *judge_text(text_t text, const text_t *continuations, size_t count, double *scores) {
    membrane_plugin_judge_question_t question = {0};
    question.tag = MEMBRANE_PLUGIN_JUDGE_QUESTION_TEXT;
    question.val.text = lent(text);
    return judge_question(&question, continuations, count, scores);
}

/* Behind a message of a user, by the model's chat template. */
static inline const char *judge_chat(text_t message, const text_t *continuations, size_t count, double *scores) {
    membrane_plugin_types_message_t user = {0};
    user.role = MEMBRANE_PLUGIN_TYPES_ROLE_USER;
    user.content = lent(message);
    membrane_plugin_judge_question_t question = {0};
    question.tag = MEMBRANE_PLUGIN_JUDGE_QUESTION_CHAT;
    question.val.chat.ptr = &user;
    question.val.chat.len = 1;
    return judge_question(&question, continuations, count, scores);
}

#endif
