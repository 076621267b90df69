/* What text.h and tool.h need of the bindings, for tests that run natively. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *ptr;
    size_t len;
} membrane_string_t;

void membrane_string_dup_n(membrane_string_t *string, const char *bytes, size_t length);
void membrane_string_dup(membrane_string_t *string, const char *text);
void membrane_string_free(membrane_string_t *string);

typedef uint8_t membrane_plugin_log_level_t;
#define MEMBRANE_PLUGIN_LOG_LEVEL_WARNING 2
void membrane_plugin_log_write(membrane_plugin_log_level_t level, membrane_string_t *text);

typedef struct {
    membrane_string_t name;
    membrane_string_t description;
    membrane_string_t parameters;
} exports_membrane_plugin_tool_plugin_description_t;
typedef struct {
    exports_membrane_plugin_tool_plugin_description_t *ptr;
    size_t len;
} exports_membrane_plugin_tool_plugin_list_description_t;
bool exports_membrane_plugin_tool_plugin_configure(membrane_string_t *parameters, membrane_string_t *err);
void exports_membrane_plugin_tool_plugin_describe(exports_membrane_plugin_tool_plugin_list_description_t *list);
bool exports_membrane_plugin_tool_plugin_call(membrane_string_t *name, membrane_string_t *arguments, membrane_string_t *ret,
                                              membrane_string_t *err);
