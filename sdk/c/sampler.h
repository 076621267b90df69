/* What a sampler in C implements. `membrane.h` has what it may call; it is written to build/bindings by each build, from
 * the contract in wit/. */
#ifndef MEMBRANE_SAMPLER_H
#define MEMBRANE_SAMPLER_H

#include "json.h"
#include "membrane.h"

typedef exports_membrane_plugin_sampler_plugin_choice_t choice_t;

/* Starts an answer; an instance lives for one. Gives NULL, or a sentence that says what is wrong. Wrong or unknown
 * parameters are reported by the SDK. */
const char *sampler_configure(object_t *parameters);

/* Called once for each token; says the token, or passes, by one of the two functions below. Gives NULL, or a sentence that
 * says what is wrong. */
const char *sampler_sample(choice_t *choice);

/* This token is next. */
void choose(choice_t *choice, uint32_t token);

/* The next sampler of the chain chooses. */
void pass(choice_t *choice);

/* An error of a function of the host as a sentence to give back. */
const char *failed(membrane_string_t *error);

#endif
