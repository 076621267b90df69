/* What a tool in C implements. `membrane.h` is written to build/bindings by each build, from the contract in wit/. */
#ifndef MEMBRANE_TOOL_H
#define MEMBRANE_TOOL_H

#include "json.h"
#include "membrane.h"

/* A tool, as it is shown to the model. */
typedef struct {
    /* Letters, digits, `_` and `-`. */
    const char *name;
    /* What it does, for the model. */
    const char *description;
    /* JSON Schema of the arguments: an object. Where it has `properties` and nothing that allows others, such as
     * `"additionalProperties": true`, arguments that it does not name are refused before the call. Elsewhere an argument that
     * the call did not read is a warning in the log. */
    const char *parameters;
} tool_t;

/* The tools of this component, which its source defines. */
extern const tool_t tools[];
extern const size_t tool_count;

/* Starts an answer. Gives NULL, or a sentence that says what is wrong. Wrong or unknown parameters are reported by the
 * SDK. */
const char *tool_configure(object_t *parameters);

/* Calls a tool. Sets `result` to a text for the model, which the SDK copies, or gives a sentence that says what is wrong,
 * which the model is told. Arguments that were read and are wrong are reported by the SDK when it returns, in place of the
 * result: where there is an effect, read them all and look at `arguments->error` before it. */
const char *tool_call(const char *name, object_t *arguments, const char **result);

#endif
