/* The engine itself: the sections' keys as one flat table of full names, filled with defaults, then
   from the file's tree, then from overrides; each entry remembers where its value came from, so
   later errors can point there. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config_impl.h"

static sy_status refuse_text(const sy__source *source, int32_t line, const char *message)
{
    if (source->has_lines && line > 0) {
        return sy_error(SY_ERR_USAGE, "%s:%d: %s", source->name, line, message);
    }
    return sy_error(SY_ERR_USAGE, "%s: %s", source->name, message);
}

sy_status sy__refuse(const sy__source *source, int32_t line, const char *format, ...)
{
    char message[SY_TRACE_MESSAGE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return refuse_text(source, line, message);
}

static sy__entry *find_entry(const sy_config *config, const char *full_name)
{
    for (int32_t i = 0; i < config->n_entries; i++) {
        if (strcmp(config->entries[i].name, full_name) == 0) {
            return &config->entries[i];
        }
    }
    return NULL;
}

const sy__entry *sy__config_find(const sy_config *config, const char *full_name)
{
    return find_entry(config, full_name);
}

void *sy__config_field(const sy_config *config, const sy__entry *entry)
{
    return (char *)config->data[entry->section] + entry->key->offset;
}

/* Also for a part of a nested section's name: "moe" of "moe.sinkhorn". */
static bool is_section(const sy_config *config, const char *name)
{
    size_t n = strlen(name);
    for (int32_t i = 0; i < config->n_sections; i++) {
        const char *section = config->sections[i]->name;
        if (strncmp(section, name, n) == 0 && (section[n] == '\0' || section[n] == '.')) {
            return true;
        }
    }
    return false;
}

/* Among full names; failing that, a key of that very name in another section. */
static const char *nearest_key(const sy_config *config, const char *full_name)
{
    enum { MAX_NAMES = 512 };
    const char *names[MAX_NAMES];
    int32_t n = 0;
    for (int32_t i = 0; i < config->n_entries && n < MAX_NAMES; i++) {
        names[n++] = config->entries[i].name;
    }
    for (int32_t i = 0; i < config->n_sections && n < MAX_NAMES; i++) {
        names[n++] = config->sections[i]->name;
    }
    const char *near = sy_nearest_name(full_name, names, n);
    const char *dot = strrchr(full_name, '.'), *last = dot ? dot + 1 : full_name;
    for (int32_t i = 0; i < config->n_entries && !near; i++) {
        near = strcmp(config->entries[i].key->name, last) == 0 ? config->entries[i].name : NULL;
    }
    return near;
}

static sy_status refuse_unknown(const sy_config *config, const sy__source *source, int32_t line,
                                const char *full_name)
{
    char hint[SY__NAME_BYTES + 32];
    sy__hint_format(nearest_key(config, full_name), hint, sizeof hint);
    return sy__refuse(source, line, "unknown key '%.*s'%s", SY__NAME_BYTES, full_name, hint);
}

static sy_status make_entries(sy_config *config)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    for (int32_t i = 0; i < config->n_sections; i++) {
        for (const sy_config_key *key = config->sections[i]->keys; key->name; key++) {
            n++;
        }
    }
    SY_TRY(sy_alloc(n, sizeof *config->entries, (void **)&config->entries));
    for (int32_t i = 0; i < config->n_sections; i++) {
        const sy_config_section *section = config->sections[i];
        for (const sy_config_key *key = section->keys; key->name; key++) {
            sy__entry *entry = &config->entries[config->n_entries++];
            entry->key = key;
            entry->section = i;
            snprintf(entry->name, sizeof entry->name, "%s.%s", section->name, key->name);
        }
    }
cleanup:
    return st;
}

static sy_status make_config(const sy_config_section *const *sections, int32_t n_sections,
                             const char *file_name, sy_config **out)
{
    sy_status st = SY_OK;
    sy_config *config = NULL;
    SY_TRY(sy_alloc(1, sizeof *config, (void **)&config));
    SY_TRY(sy_strdup(file_name, &config->file_name));
    SY_TRY(sy_alloc(n_sections, sizeof *config->sections, (void **)&config->sections));
    SY_TRY(sy_alloc(n_sections, sizeof *config->data, (void **)&config->data));
    for (; config->n_sections < n_sections; config->n_sections++) {
        const sy_config_section *section = sections[config->n_sections];
        config->sections[config->n_sections] = section;
        SY_TRY(sy_alloc(1, section->struct_bytes, &config->data[config->n_sections]));
    }
    SY_TRY(make_entries(config));
    *out = config;
    config = NULL;
cleanup:
    sy_config_destroy(&config);
    return st;
}

void sy_config_destroy(sy_config **config)
{
    sy_config *c = *config;
    if (!c) {
        return;
    }
    for (int32_t i = 0; i < c->n_entries; i++) {
        sy__value_free(c->entries[i].key, sy__config_field(c, &c->entries[i]));
        sy_free(&c->entries[i].set_name);
    }
    for (int32_t i = 0; i < c->n_sections; i++) {
        sy_free(&c->data[i]);
    }
    sy_free(&c->entries);
    sy_free(&c->data);
    sy_free(&c->sections);
    sy_free(&c->file_name);
    sy_free(config);
}

/* Read a text that stands for one value into its field. */
static sy_status set_from_text(sy_config *config, const sy__source *source, const sy__entry *entry,
                               const char *text)
{
    sy_status st = SY_OK;
    sy__node *node = NULL;
    SY_TRY(sy__yaml_read(source, text, strlen(text), &node));
    if (!node) {
        st = sy__refuse(source, 0, "%s has no value", entry->name);
        goto cleanup;
    }
    SY_TRY(sy__value_parse(source, entry->name, entry->key, node, sy__config_field(config, entry)));
cleanup:
    sy__node_destroy(&node);
    return st;
}

static sy_status apply_default(sy_config *config, const sy__entry *entry, const char *text)
{
    char name[SY__NAME_BYTES + 16];
    snprintf(name, sizeof name, "default of %s", entry->name);
    return set_from_text(config, &(sy__source){.name = name}, entry, text);
}

static sy_status apply_defaults(sy_config *config)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < config->n_entries; i++) {
        const sy__entry *entry = &config->entries[i];
        if (entry->key->default_text) {
            SY_TRY(apply_default(config, entry, entry->key->default_text));
        }
    }
cleanup:
    return st;
}

/* A map of the file: prefix "" is the file itself, "moe" what stands under moe:. */
static sy_status apply_map(sy_config *config, const sy__source *source, const char *prefix,
                           const sy__node *map);

static sy_status apply_child(sy_config *config, const sy__source *source, const char *full_name,
                             const sy__node *node)
{
    sy_status st = SY_OK;
    sy__entry *entry = find_entry(config, full_name);
    if (!entry && !is_section(config, full_name)) {
        return refuse_unknown(config, source, node->line, full_name);
    }
    if (!entry) {
        return apply_map(config, source, full_name, node);
    }
    if (entry->origin == SY__FILE) {
        return sy__refuse(source, node->line, "duplicate key '%s' (first on line %d)", full_name,
                          entry->line);
    }
    SY_TRY(sy__value_parse(source, full_name, entry->key, node, sy__config_field(config, entry)));
    entry->origin = SY__FILE;
    entry->line = node->line;
cleanup:
    return st;
}

static sy_status apply_map(sy_config *config, const sy__source *source, const char *prefix,
                           const sy__node *map)
{
    sy_status st = SY_OK;
    char full_name[SY__NAME_BYTES];
    if (sy__node_is_empty(map) || sy__node_is_null(map)) {
        return SY_OK; /* "moe:" and nothing under it */
    }
    if (map->kind != SY__MAP) {
        return sy__refuse(source, map->line, "%s%s must hold 'key: value' lines",
                          *prefix ? "section " : "the file", prefix);
    }
    for (const sy__node *child = map->first_child; child; child = child->next) {
        snprintf(full_name, sizeof full_name, "%s%s%s", prefix, *prefix ? "." : "", child->key);
        SY_TRY(apply_child(config, source, full_name, child));
    }
cleanup:
    return st;
}

static sy_status apply_file(sy_config *config, const char *text, size_t text_bytes)
{
    sy_status st = SY_OK;
    sy__node *root = NULL;
    sy__source source = {.name = config->file_name, .has_lines = true};
    SY_TRY(sy__yaml_read(&source, text, text_bytes, &root));
    if (root) {
        SY_TRY(apply_map(config, &source, "", root));
    }
cleanup:
    sy__node_destroy(&root);
    return st;
}

/* "moe.top_k=2" */
static sy_status apply_override(sy_config *config, const char *override)
{
    sy_status st = SY_OK;
    char *set_name = NULL, full_name[SY__NAME_BYTES];
    SY_TRY(sy_asprintf(&set_name, "--set %.256s", override));
    sy__source source = {.name = set_name};
    const char *equals = strchr(override, '=');
    if (!equals) {
        st = sy__refuse(&source, 0, "write --set section.key=value");
        goto cleanup;
    }
    snprintf(full_name, sizeof full_name, "%.*s", (int)(equals - override), override);
    sy__entry *entry = find_entry(config, full_name);
    if (!entry && is_section(config, full_name)) {
        st = sy__refuse(&source, 0, "%s is a section: set one of its keys", full_name);
        goto cleanup;
    }
    if (!entry) {
        st = refuse_unknown(config, &source, 0, full_name);
        goto cleanup;
    }
    SY_TRY(set_from_text(config, &source, entry, equals + 1));
    sy_free(&entry->set_name);
    entry->set_name = set_name;
    set_name = NULL;
    entry->origin = SY__SET;
cleanup:
    sy_free(&set_name);
    return st;
}

static sy_status check_required(const sy_config *config)
{
    sy__source source = {.name = config->file_name};
    for (int32_t i = 0; i < config->n_entries; i++) {
        const sy__entry *entry = &config->entries[i];
        if (!entry->key->default_text && entry->origin == SY__DEFAULT) {
            return sy__refuse(&source, 0, "%s is missing and has no default: %s", entry->name,
                              entry->key->help);
        }
    }
    return SY_OK;
}

sy_status sy_config_parse(const sy_config_section *const *sections, int32_t n_sections,
                          const char *text, size_t text_bytes, const char *file_name,
                          const char *const *overrides, int32_t n_overrides, sy_config **out)
{
    sy_status st = SY_OK;
    sy_config *config = NULL;
    SY_TRY(make_config(sections, n_sections, file_name, &config));
    SY_TRY(apply_defaults(config));
    SY_TRY(apply_file(config, text, text_bytes));
    for (int32_t i = 0; i < n_overrides; i++) {
        SY_TRY(apply_override(config, overrides[i]));
    }
    SY_TRY(check_required(config));
    for (int32_t i = 0; i < n_sections; i++) {
        if (sections[i]->check) {
            SY_TRY(sections[i]->check(config->data[i], config));
        }
    }
    *out = config;
    config = NULL;
cleanup:
    sy_config_destroy(&config);
    return st;
}

const void *sy_config_get(const sy_config *config, const char *section)
{
    return sy_config_edit((sy_config *)config, section);
}

void *sy_config_edit(sy_config *config, const char *section)
{
    for (int32_t i = 0; i < config->n_sections; i++) {
        if (strcmp(config->sections[i]->name, section) == 0) {
            return config->data[i];
        }
    }
    return NULL;
}

bool sy_config_was_set(const sy_config *config, const char *key)
{
    const sy__entry *entry = find_entry(config, key);
    return entry && entry->origin != SY__DEFAULT;
}

sy_status sy_config_default(sy_config *config, const char *key, const char *value)
{
    sy_status st = SY_OK;
    const sy__entry *entry = find_entry(config, key);
    SY_REQUIRE(entry, SY_ERR_INTERNAL, "no config key is called '%s'", key);
    SY_TRY(apply_default(config, entry, value));
cleanup:
    return st;
}

sy_status sy_config_error(const sy_config *config, const char *key, const char *format, ...)
{
    char message[SY_TRACE_MESSAGE];
    const sy__entry *entry = find_entry(config, key);
    sy__source source = {.name = config->file_name, .has_lines = true};
    if (entry && entry->origin == SY__SET) {
        source = (sy__source){.name = entry->set_name};
    }
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return refuse_text(&source, entry ? entry->line : 0, message);
}

sy_status sy_config_blame(const sy_config *config, const char *key, sy_status st)
{
    char message[SY_TRACE_MESSAGE];
    if (st != SY_ERR_USAGE) {
        return st;
    }
    snprintf(message, sizeof message, "%s", sy_error_message());
    sy_error_clear();
    return sy_config_error(config, key, "%s", message);
}
