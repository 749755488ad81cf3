/* What people read: the echo of a configuration, how two differ, the tables as help, and the
 * nearest name. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config_impl.h"

const char *sy__hint_format(const char *near_name, char *buf, size_t buf_bytes)
{
    buf[0] = '\0';
    if (near_name) {
        snprintf(buf, buf_bytes, " (did you mean '%s'?)", near_name);
    }
    return buf;
}

/* Letters that a hand confuses are no edit: case, and '-' for '_'. */
static bool same_letter(char a, char b)
{
    a = (char)(a == '-' ? '_' : tolower((unsigned char)a));
    b = (char)(b == '-' ? '_' : tolower((unsigned char)b));
    return a == b;
}

enum { NEAR_MAX = 96 }; /* longer names are near to nothing */

/* Insertions, deletions, replacements and swaps of neighbours that lead from a to b. */
static int32_t edit_distance(const char *a, const char *b)
{
    int32_t rows[3][NEAR_MAX + 1], n_a = (int32_t)strlen(a), n_b = (int32_t)strlen(b);
    int32_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (int32_t j = 0; j <= n_b; j++) {
        above[j] = j;
    }
    for (int32_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (int32_t j = 1; j <= n_b; j++) {
            int32_t best = above[j - 1] + !same_letter(a[i - 1], b[j - 1]);
            best = above[j] + 1 < best ? above[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) &&
                same_letter(a[i - 2], b[j - 1]) && before[j - 2] + 1 < best) {
                best = before[j - 2] + 1;
            }
            row[j] = best;
        }
        int32_t *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[n_b];
}

const char *sy_nearest_name(const char *name, const char *const *names, int32_t n)
{
    const char *nearest = NULL;
    size_t n_letters = strlen(name);
    if (n_letters > NEAR_MAX) {
        return NULL;
    }
    int32_t best = n_letters < 4 ? 1 : n_letters < 8 ? 2 : 3;
    for (int32_t i = 0; i < n; i++) {
        if (strlen(names[i]) > NEAR_MAX) {
            continue;
        }
        int32_t distance = edit_distance(name, names[i]);
        if (distance < best || (distance == best && !nearest)) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

/* "sinkhorn" of "moe.sinkhorn", if that stands directly under "moe"; every top section under "". */
static const char *child_name(const char *parent, const char *section)
{
    size_t n = strlen(parent);
    const char *rest = section;
    if (n > 0) {
        if (strncmp(section, parent, n) != 0 || section[n] != '.') {
            return NULL;
        }
        rest = section + n + 1;
    }
    return strchr(rest, '.') ? NULL : rest;
}

static sy_status echo_sections(const sy_config *config, const char *parent, int32_t indent,
                               sy__text *text);

static sy_status echo_section(const sy_config *config, int32_t section, const char *heading,
                              int32_t indent, sy__text *text)
{
    sy_status st = SY_OK;
    SY_TRY(sy__text_add(text, "%*s%s:\n", indent, "", heading));
    for (int32_t i = 0; i < config->n_entries; i++) {
        const sy__entry *entry = &config->entries[i];
        if (entry->section == section) {
            SY_TRY(sy__text_add(text, "%*s%s: ", indent + 2, "", entry->key->name));
            SY_TRY(sy__value_write(text, entry->key, sy__config_field(config, entry)));
            SY_TRY(sy__text_add(text, "\n"));
        }
    }
    SY_TRY(echo_sections(config, config->sections[section]->name, indent + 2, text));
cleanup:
    return st;
}

static sy_status echo_sections(const sy_config *config, const char *parent, int32_t indent,
                               sy__text *text)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < config->n_sections; i++) {
        const char *heading = child_name(parent, config->sections[i]->name);
        if (heading) {
            SY_TRY(echo_section(config, i, heading, indent, text));
        }
    }
cleanup:
    return st;
}

/* Hand the text over; "" where nothing was added. */
static sy_status finish(sy_status st, sy__text *text, char **out)
{
    if (st == SY_OK) {
        st = sy__text_add(text, "%s", "");
    }
    if (st == SY_OK) {
        *out = text->data;
        text->data = NULL;
    }
    sy_free(&text->data);
    return st;
}

sy_status sy_config_echo(const sy_config *config, char **out)
{
    sy__text text = {0};
    return finish(echo_sections(config, "", 0, &text), &text, out);
}

/* The value of an entry in new YAML text; entry NULL: "". Free with sy_free. */
static sy_status value_text(const sy_config *config, const sy__entry *entry, char **out)
{
    sy_status st = SY_OK;
    sy__text text = {0};
    if (entry) {
        st = sy__value_write(&text, entry->key, sy__config_field(config, entry));
    }
    return finish(st, &text, out);
}

static sy_status diff_entry(const sy_config *old_config, const sy_config *new_config,
                            const sy__entry *entry, sy__text *text)
{
    sy_status st = SY_OK;
    char *old_value = NULL, *new_value = NULL;
    const sy__entry *old_entry = sy__config_find(old_config, entry->name);
    SY_TRY(value_text(old_config, old_entry, &old_value));
    SY_TRY(value_text(new_config, entry, &new_value));
    if (strcmp(old_value, new_value) != 0) {
        SY_TRY(sy__text_add(text, "%s: %s -> %s\n", entry->name,
                            old_entry ? old_value : "(no such key)", new_value));
    }
cleanup:
    sy_free(&new_value);
    sy_free(&old_value);
    return st;
}

static sy_status diff_entries(const sy_config *old_config, const sy_config *new_config,
                              bool (*counts)(const char *key), sy__text *text)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < new_config->n_entries; i++) {
        const sy__entry *entry = &new_config->entries[i];
        if (!counts || counts(entry->name)) {
            SY_TRY(diff_entry(old_config, new_config, entry, text));
        }
    }
cleanup:
    return st;
}

sy_status sy_config_diff(const sy_config *old_config, const sy_config *new_config,
                         bool (*counts)(const char *key), char **out)
{
    sy__text text = {0};
    return finish(diff_entries(old_config, new_config, counts, &text), &text, out);
}

/* "a|b|c" for an enum, else the type in a word. */
static sy_status add_type(const sy_config_key *key, bool markdown, sy__text *text)
{
    static const char *const words[] = {
        [SY_CFG_BOOL] = "true or false",
        [SY_CFG_I32] = "integer",
        [SY_CFG_I64] = "integer",
        [SY_CFG_F64] = "number",
        [SY_CFG_STR] = "text",
        [SY_CFG_OPT_F64] = "number or null",
        [SY_CFG_STR_LIST] = "text or list",
        [SY_CFG_F64_PAIR] = "two numbers",
        [SY_CFG_MAP_LIST] = "list of maps of",
    };
    sy_status st = SY_OK;
    if (key->type != SY_CFG_ENUM) {
        SY_TRY(sy__text_add(text, "%s", words[key->type]));
    }
    if (key->type == SY_CFG_ENUM || key->type == SY_CFG_MAP_LIST) {
        const char *between = key->type == SY_CFG_MAP_LIST ? ", " : markdown ? " \\| " : "|";
        SY_TRY(sy__text_add(text, "%s", key->type == SY_CFG_MAP_LIST ? " " : ""));
        for (const char *const *choice = key->choices; *choice; choice++) {
            SY_TRY(sy__text_add(text, "%s%s", choice == key->choices ? "" : between,
                                *choice + (**choice == '*')));
        }
    }
cleanup:
    return st;
}

static sy_status help_terminal(const sy_config_section *section, sy__text *text)
{
    sy_status st = SY_OK;
    char range[64];
    SY_TRY(sy__text_add(text, "%s: %s\n", section->name, section->help));
    for (const sy_config_key *key = section->keys; key->name; key++) {
        sy__range_format(key, range, sizeof range);
        SY_TRY(sy__text_add(text, "  %s.%s = %s  (", section->name, key->name,
                            key->default_text ? key->default_text : "REQUIRED"));
        SY_TRY(add_type(key, false, text));
        SY_TRY(sy__text_add(text, "%s%s)\n      %s\n", *range ? ", " : "", range, key->help));
    }
    SY_TRY(sy__text_add(text, "\n"));
cleanup:
    return st;
}

/* Text in a cell of a Markdown table, where a bar would begin the next one. */
static sy_status add_cell(sy__text *text, const char *cell)
{
    sy_status st = SY_OK;
    for (size_t n; *cell; cell += n) {
        n = strcspn(cell, "|");
        SY_TRY(sy__text_add(text, "%.*s", (int)n, cell));
        if (cell[n] == '|') {
            SY_TRY(sy__text_add(text, "\\|"));
            n++;
        }
    }
cleanup:
    return st;
}

static sy_status help_markdown(const sy_config_section *section, sy__text *text)
{
    sy_status st = SY_OK;
    char range[64];
    SY_TRY(sy__text_add(text, "## %s\n\n%s\n\n| key | type | default | range | meaning |\n",
                        section->name, section->help));
    SY_TRY(sy__text_add(text, "|---|---|---|---|---|\n"));
    for (const sy_config_key *key = section->keys; key->name; key++) {
        sy__range_format(key, range, sizeof range);
        SY_TRY(sy__text_add(text, "| `%s.%s` | ", section->name, key->name));
        SY_TRY(add_type(key, true, text));
        if (key->default_text) {
            SY_TRY(sy__text_add(text, " | `%s`", key->default_text));
        } else {
            SY_TRY(sy__text_add(text, " | required"));
        }
        SY_TRY(sy__text_add(text, " | %s | ", range));
        SY_TRY(add_cell(text, key->help));
        SY_TRY(sy__text_add(text, " |\n"));
    }
    SY_TRY(sy__text_add(text, "\n"));
cleanup:
    return st;
}

sy_status sy_config_help(const sy_config_section *const *sections, int32_t n_sections,
                         bool markdown, char **out)
{
    sy_status st = SY_OK;
    sy__text text = {0};
    for (int32_t i = 0; i < n_sections; i++) {
        SY_TRY(markdown ? help_markdown(sections[i], &text) : help_terminal(sections[i], &text));
    }
cleanup:
    return finish(st, &text, out);
}
