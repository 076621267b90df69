/* What text.h needs of the bindings, for tests that run natively. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *ptr;
    size_t len;
} membrane_string_t;

void membrane_string_dup_n(membrane_string_t *string, const char *bytes, size_t length);
