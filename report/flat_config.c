#include "report/flat_config.h"

#include <string.h>

#include "core/alloc.h"
#include "report/text.h"

typedef struct yaml_line {
    const char *key, *value;
    int32_t key_bytes, value_bytes;
    bool is_nested; /* it is indented */
} yaml_line;

/* "  key: value"; false for a line that has no key. */
static bool split(const char *line, int32_t n, yaml_line *out)
{
    int32_t indent = 0, colon;
    while (indent < n && line[indent] == ' ') {
        indent++;
    }
    for (colon = indent; colon < n && line[colon] != ':'; colon++) {
    }
    if (colon == n || colon == indent || line[indent] == '#' || line[indent] == '-') {
        return false;
    }
    int32_t first = colon + 1;
    while (first < n && line[first] == ' ') {
        first++;
    }
    while (n > first && (line[n - 1] == ' ' || line[n - 1] == '\r')) {
        n--;
    }
    *out = (yaml_line){line + indent, line + first, colon - indent, n - first, indent > 0};
    return true;
}

/* "section.key\0value\0" for every key that has a value, one after the other. */
static int32_t flatten(const char *yaml, sy_text *text)
{
    const char *section = "";
    int32_t section_bytes = 0, n_keys = 0;
    for (const char *line = yaml; *line != '\0'; line += *line == '\n') {
        int32_t n = (int32_t)strcspn(line, "\n");
        yaml_line l;
        if (split(line, n, &l)) {
            if (!l.is_nested) {
                section = l.key;
                section_bytes = l.key_bytes;
            }
            if (l.value_bytes > 0) {
                sy_text_append(text, section, l.is_nested ? section_bytes : 0);
                sy_text_append(text, ".", l.is_nested);
                sy_text_append(text, l.key, l.key_bytes);
                sy_text_append(text, "", 1);
                sy_text_append(text, l.value, l.value_bytes);
                sy_text_append(text, "", 1);
                n_keys++;
            }
        }
        line += n;
    }
    return n_keys;
}

sy_status sy_flat_config_parse(const char *yaml, sy_flat_config *out)
{
    sy_status st = SY_OK;
    sy_text text = {0};
    sy_flat_config config = {0};
    config.n = yaml != NULL ? flatten(yaml, &text) : 0;
    SY_TRY(text.st);
    SY_TRY(sy_alloc(config.n, sizeof *config.item, (void **)&config.item));
    const char *at = text.data;
    for (int32_t i = 0; i < config.n; i++) {
        config.item[i].key = at;
        config.item[i].value = at + strlen(at) + 1;
        at = config.item[i].value + strlen(config.item[i].value) + 1;
    }
    config.text = text.data;
    text.data = NULL;
    *out = config;
    config = (sy_flat_config){0};
cleanup:
    sy_flat_config_free(&config);
    sy_text_free(&text);
    return st;
}

void sy_flat_config_free(sy_flat_config *config)
{
    sy_free(&config->item);
    sy_free(&config->text);
    config->n = 0;
}

const char *sy_flat_config_find(const sy_flat_config *config, const char *key)
{
    for (int32_t i = 0; i < config->n; i++) {
        if (strcmp(config->item[i].key, key) == 0) {
            return config->item[i].value;
        }
    }
    return NULL;
}
