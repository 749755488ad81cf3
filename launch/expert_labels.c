#include "launch/expert_labels.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

typedef char label[SY_EXPERT_LABEL + 1];

/* The last part of a path, without ".h5" and slashes at the end. */
static void name_of_path(const char *path, label out)
{
    size_t n = strlen(path), first = 0;
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    n -= n > 3 && strncmp(path + n - 3, ".h5", 3) == 0 ? 3 : 0;
    for (size_t i = 0; i + 1 < n; i++) {
        first = path[i] == '/' ? i + 1 : first;
    }
    snprintf(out, sizeof(label), "%.*s", (int)(n - first), path + first);
}

static void clean(label text)
{
    for (char *c = text; *c != '\0'; c++) {
        *c = isalnum((unsigned char)*c) || strchr("_-.", *c) != NULL ? *c : '_';
    }
}

static bool is_taken(label *list, int32_t n, const char *text)
{
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(list[i], text) == 0) {
            return true;
        }
    }
    return false;
}

/* "name-2", "name-3", ... where the name is taken; a long one gives up its end for that. */
static void make_unique(label *list, int32_t n)
{
    label with;
    snprintf(with, sizeof with, "%s", list[n]);
    for (int32_t k = 2; is_taken(list, n, with); k++) {
        snprintf(with, sizeof with, "%.*s-%d", SY_EXPERT_LABEL - 11, list[n], k);
    }
    memcpy(list[n], with, sizeof with);
}

sy_status sy_grow_label_experts(sy_grow *g, const char *const *path, int32_t n)
{
    sy_status st = SY_OK;
    label *list = NULL;
    char *text = NULL;
    const size_t room = (size_t)n * (sizeof *list + 4) + 32;
    size_t used = 0;
    SY_TRY(sy_alloc(n, sizeof *list, (void **)&list));
    SY_TRY(sy_alloc((int64_t)room, 1, (void **)&text));
    used = (size_t)snprintf(text, room, "moe.expert_labels=[");
    for (int32_t i = 0; i < n; i++) {
        const char *name = g->source_settings[i].run->name;
        if (name != NULL) {
            snprintf(list[i], sizeof *list, "%s", name);
        } else {
            name_of_path(path[i], list[i]);
        }
        clean(list[i]);
        make_unique(list, i);
        used += (size_t)snprintf(text + used, room - used, "%s\"%s\"", i > 0 ? ", " : "", list[i]);
    }
    snprintf(text + used, room - used, "]");
    g->derived[g->n_derived++] = text;
    text = NULL;
cleanup:
    sy_free(&text);
    sy_free(&list);
    return st;
}
