/* Answers a question of arithmetic with expressions that a calculator has worked out.
 *
 * The model writes several expressions, in forks of one context and at the same time, and a tool works them out. The equation
 * that the model finds likeliest is written, and behind it the model says the answer in a sentence. */
#include "agent.h"

#include <string.h>

#define SYSTEM "Write the arithmetic expression that answers the question, and nothing else."
#define QUESTION "A shelf has 4 rows of 6 cups. How many cups are there?"
#define EQUATION "4 * 6 = 24"
#define SENTENCE "Say the answer in one sentence."
#define MOST_TRIES 16

static size_t tries;
static text_t tool;

const char *agent_configure(object_t *parameters) {
    tries = (size_t)object_integer(parameters, "tries", 4, 1, MOST_TRIES);
    tool = text_from(object_text(parameters, "tool", "calculator"));
    return NULL;
}

/* What of a text can stand in an expression. */
static text_t cleaned(text_t text) {
    char *kept = text_room(text.length);
    size_t length = 0;
    for (size_t index = 0; index < text.length; index++) {
        char character = text.bytes[index];
        bool blank = character == ' ';
        if (character && strchr("0123456789.+-*/() ", character) && !(blank && length == 0)) {
            kept[length++] = character;
        }
    }
    while (length > 0 && kept[length - 1] == ' ') {
        length--;
    }
    return (text_t){kept, length};
}

/* What the model writes in forks of a session, all of which are in the making at the same time. */
static const char *expressions(session_t session, text_t *written) {
    options_t options = options_new();
    options_at_most(&options, 24);
    options_until(&options, text_from("="));
    options_until(&options, text_from("\n"));
    generation_t started[MOST_TRIES];
    const char *wrong = NULL;
    for (size_t index = 0; index < tries && !wrong; index++) {
        session_t fork;
        wrong = session_fork(session, &fork);
        if (!wrong) {
            wrong = session_generate(fork, &options, &started[index]);
        }
    }
    for (size_t index = 0; index < tries && !wrong; index++) {
        completion_t completion;
        wrong = generation_finish(started[index], &completion);
        if (!wrong) {
            written[index] = cleaned(text_of(&completion.text));
        }
    }
    return wrong;
}

static bool is_among(text_t text, const text_t *texts, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (texts[index].length == text.length && memcmp(texts[index].bytes, text.bytes, text.length) == 0) {
            return true;
        }
    }
    return false;
}

/* The equations that the tool makes of expressions, each once; sets their number. What it can't work out is left out. */
static const char *worked_out(const text_t *written, text_t *equations, size_t *count) {
    const char *why = "the model wrote none";
    *count = 0;
    for (size_t index = 0; index < tries; index++) {
        text_t expression = written[index], result;
        if (expression.length == 0 || is_among(expression, written, index)) {
            continue;
        }
        text_t arguments[] = {text_from("{\"expression\":"), json_quoted(expression), text_from("}")};
        const char *wrong = tools_call(tool, text_joined(arguments, 3), &result);
        if (wrong) {
            text_t line = text_joined((text_t[]){expression, text_from(": "), text_from(wrong)}, 3);
            membrane_string_t said = lent(line);
            membrane_plugin_log_write(MEMBRANE_PLUGIN_LOG_LEVEL_DEBUG, &said);
            why = wrong;
        } else {
            equations[(*count)++] = text_joined((text_t[]){expression, text_from(" = "), result}, 3);
        }
    }
    return *count > 0 ? NULL : text_printed("no expression could be worked out: %s", why).bytes;
}

/* The text that has the largest mean log probability of its tokens behind a session's context; the first of equal ones. */
static const char *likeliest(session_t session, const text_t *texts, size_t count, text_t *likeliest) {
    score_t scores[MOST_TRIES];
    const char *wrong = session_score(session, texts, count, scores);
    size_t best = 0;
    double largest = 0;
    for (size_t place = 0; place < count && !wrong; place++) {
        double mean = scores[place].log_probability / (scores[place].tokens ? scores[place].tokens : 1);
        if (place == 0 || mean > largest) {
            best = place;
            largest = mean;
        }
    }
    *likeliest = texts[best];
    return wrong;
}

/* Writes what the model says next in a conversation, as it comes. */
static const char *write_sentence(session_t session, const turn_t *turns, size_t count) {
    options_t options = options_new();
    options_at_most(&options, 48);
    options_until(&options, text_from("\n"));
    generation_t generation;
    const char *wrong = session_chat(session, turns, count, false);
    if (!wrong) {
        wrong = session_generate(session, &options, &generation);
    }
    for (bool more = !wrong; more;) {
        text_t piece;
        wrong = generation_next(generation, &piece, &more);
        if (more) {
            output_write(piece);
        }
    }
    return wrong;
}

const char *agent_run(text_t task, text_t *answer) {
    (void)answer;
    session_t session = session_new();
    turn_t turns[6] = {turn_system(text_from(SYSTEM)), turn_user(text_from(QUESTION)), turn_assistant(text_from(EQUATION)),
                       turn_user(task)};
    text_t written[MOST_TRIES], equations[MOST_TRIES], equation;
    size_t count;
    const char *wrong = session_chat(session, turns, 4, false);
    if (!wrong) {
        wrong = expressions(session, written);
    }
    if (!wrong) {
        wrong = worked_out(written, equations, &count);
    }
    if (!wrong) {
        wrong = likeliest(session, equations, count, &equation);
    }
    if (wrong) {
        return wrong;
    }
    output_write(text_joined((text_t[]){equation, text_from("\n")}, 2));
    turns[4] = turn_assistant(equation);
    turns[5] = turn_user(text_from(SENTENCE));
    return write_sentence(session, turns, 6);
}
