/* What doctor found, brought together: what several hosts say alike is said once. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/doctor_impl.h"
#include "parallel/agree.h"
#include "report/text.h"

static const char *const level_name[] = {"ok", "note", "problem"};

sy_status sy__doctor_gather(sy__doctor *d)
{
    sy_status st = SY_OK;
    sy_comm *world = d->env->world;
    sy__finding *mine = NULL, *all = NULL;
    int64_t most = d->n, n = 0;
    SY_TRY(sy_host_all_reduce(world, &most, 1, SY_I64, SY_MAX, "findings"));
    st = sy_alloc(most, sizeof *mine, (void **)&mine);
    st = st == SY_OK ? sy_alloc(most * world->size, sizeof *all, (void **)&all) : st;
    SY_TRY(sy_agree(world, st));
    for (int32_t i = 0; i < most; i++) {
        if (i < d->n) {
            mine[i] = d->item[i];
        } else {
            mine[i].level = (sy__doctor_level)-1;
        }
    }
    SY_TRY(sy_host_all_gather(world, mine, all, most * (int64_t)sizeof *mine, "findings"));
    for (int64_t i = 0; i < most * world->size; i++) {
        if ((int)all[i].level >= 0) {
            all[n++] = all[i];
        }
    }
    sy_free(&d->item);
    d->item = all;
    d->n = d->n_max = (int32_t)n;
    all = NULL;
cleanup:
    sy_free(&all);
    sy_free(&mine);
    return st;
}

static bool alike(const sy__finding *a, const sy__finding *b)
{
    return a->kind == b->kind && a->level == b->level && strcmp(a->topic, b->topic) == 0;
}

static bool is_repeated(const sy__doctor *d, int32_t i)
{
    for (int32_t k = 0; k < i; k++) {
        if (alike(&d->item[k], &d->item[i])) {
            return true;
        }
    }
    return false;
}

/* Hosts that said what item i says, each once and i's own first; figures may differ. */
static int32_t name_hosts(const sy__doctor *d, int32_t i, char *buf, size_t bytes)
{
    int32_t n = 0, last = -1;
    size_t used = 0;
    *buf = '\0';
    for (int32_t k = i; k < d->n; k++) {
        if (alike(&d->item[i], &d->item[k]) && d->item[k].host != last) {
            last = d->item[k].host;
            if (n++ < 4 && used + SY__DOCTOR_HOST + 2 < bytes) {
                used += (size_t)snprintf(buf + used, bytes - used, "%s%s", n > 1 ? ", " : "",
                                         d->host[last].name);
            }
        }
    }
    return n;
}

/* Nothing where all hosts say the same. */
static void print_hosts(const sy__doctor *d, int32_t i)
{
    char names[5 * SY__DOCTOR_HOST];
    bool same = true;
    const int32_t n = name_hosts(d, i, names, sizeof names);
    for (int32_t k = i; k < d->n; k++) {
        same = same &&
               (!alike(&d->item[i], &d->item[k]) || strcmp(d->item[i].text, d->item[k].text) == 0);
    }
    if (d->n_hosts == 1 || d->item[i].host < 0 || (n == d->n_hosts && same)) {
        return;
    }
    if (n == d->n_hosts) {
        printf(" (%s; much the same on all %d hosts)", d->host[d->item[i].host].name, n);
    } else {
        printf(n > 4 ? " (on %s and %d more)" : " (on %s)", names, n - 4);
    }
}

static bool is_first_of_topic(const sy__doctor *d, int32_t i)
{
    int32_t k = 0;
    while (strcmp(d->item[k].topic, d->item[i].topic) != 0) {
        k++;
    }
    return k == i;
}

static void print_finding(const sy__doctor *d, int32_t i, const char *topic)
{
    const sy__finding *f = &d->item[i];
    printf("%-8s %-10s %s", level_name[f->level], topic, f->text);
    print_hosts(d, i);
    printf("\n");
    if (*f->mend != '\0') {
        printf("%-8s %-10s   mend: %s\n", "", "", f->mend);
    }
}

void sy__doctor_print(const sy__doctor *d)
{
    int32_t n[3] = {0};
    for (int32_t i = 0; i < d->n; i++) {
        const char *topic = d->item[i].topic;
        for (int32_t k = i; is_first_of_topic(d, i) && k < d->n; k++) {
            if (strcmp(d->item[k].topic, d->item[i].topic) == 0 && !is_repeated(d, k)) {
                n[d->item[k].level]++;
                print_finding(d, k, topic);
                topic = "";
            }
        }
    }
    printf("%d problem%s, %d note%s\n", n[SY__PROBLEM], n[SY__PROBLEM] == 1 ? "" : "s", n[SY__NOTE],
           n[SY__NOTE] == 1 ? "" : "s");
}

void sy__doctor_print_json(const sy__doctor *d)
{
    sy_text text = {0};
    sy_text_puts(&text, "{\"hosts\":[");
    for (int32_t h = 0; h < d->n_hosts; h++) {
        sy_text_puts(&text, h > 0 ? ",{\"name\":" : "{\"name\":");
        sy_text_json(&text, d->host[h].name);
        sy_text_printf(&text, ",\"ranks\":%d}", d->host[h].n_ranks);
    }
    sy_text_puts(&text, "],\"findings\":[");
    for (int32_t i = 0; i < d->n; i++) {
        const sy__finding *f = &d->item[i];
        sy_text_printf(&text, "%s{\"level\":\"%s\",\"topic\":\"%s\",\"host\":", i > 0 ? "," : "",
                       level_name[f->level], f->topic);
        sy_text_json(&text, f->host >= 0 ? d->host[f->host].name : "");
        sy_text_puts(&text, ",\"text\":");
        sy_text_json(&text, f->text);
        sy_text_puts(&text, ",\"mend\":");
        if (*f->mend != '\0') {
            sy_text_json(&text, f->mend);
        } else {
            sy_text_puts(&text, "null");
        }
        sy_text_puts(&text, "}");
    }
    sy_text_puts(&text, "]}");
    if (text.st == SY_OK) {
        puts(text.data);
    }
    sy_text_free(&text);
}
