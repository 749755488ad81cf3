/* doctor: what this machine and job offer, what is wrong with it, and the mend. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "launch/doctor_impl.h"
#include "parallel/agree.h"

/* In the order of the output. */
static const sy__doctor_check checks[] = {
    {"mpi", false, sy__doctor_mpi},         {"libraries", false, sy__doctor_libraries},
    {"gpus", false, sy__doctor_gpus},       {"hosts", true, sy__doctor_hosts},
    {"cores", false, sy__doctor_cores},     {"memory", false, sy__doctor_memory},
    {"limits", false, sy__doctor_limits},   {"fabric", false, sy__doctor_fabric},
    {"network", false, sy__doctor_network}, {"files", true, sy__doctor_files},
    {"clocks", true, sy__doctor_clocks},    {"pairs", true, sy__doctor_pairs},
};

void sy__doctor_say(sy__doctor *d, const char *topic, sy__doctor_level level, const char *mend,
                    const char *format, ...)
{
    va_list args;
    if (d->n == d->n_max && d->st == SY_OK) {
        d->n_max = 2 * d->n_max + 16;
        d->st = sy_realloc(d->n_max, sizeof *d->item, (void **)&d->item);
    }
    if (d->st != SY_OK) {
        return;
    }
    sy__finding *f = &d->item[d->n++];
    *f = (sy__finding){
        .level = level, .host = d->host_of[d->env->world->rank], .kind = sy_rng_stream_of(format)};
    for (int32_t i = 0; i + 1 < d->n; i++) { /* a second network card is another finding */
        f->kind += d->item[i].kind == f->kind;
    }
    snprintf(f->topic, sizeof f->topic, "%s", topic);
    snprintf(f->mend, sizeof f->mend, "%s", mend != NULL ? mend : "");
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
}

void sy__doctor_of_job(sy__doctor *d)
{
    if (d->n > 0) {
        d->item[d->n - 1].host = -1;
    }
}

bool sy__doctor_line(const char *path, char *buf, size_t buf_bytes)
{
    FILE *f = fopen(path, "re");
    bool ok = f != NULL && fgets(buf, (int)buf_bytes, f) != NULL;
    if (ok) {
        buf[strcspn(buf, "\n")] = '\0';
    }
    if (f != NULL) {
        fclose(f);
    }
    return ok;
}

/* Who is on which host: a host is known by its name, and begins with a rank that is the first on
   its node. */
static sy_status find_hosts(sy__doctor *d)
{
    sy_status st = SY_OK;
    typedef struct place {
        char host[SY__DOCTOR_HOST];
        int32_t local_rank;
    } place;
    sy_comm *world = d->env->world;
    place mine = {.local_rank = d->env->local_rank}, *all = NULL;
    gethostname(mine.host, sizeof mine.host - 1);
    st = sy_alloc(world->size, sizeof *all, (void **)&all);
    st = st == SY_OK ? sy_alloc(world->size, sizeof *d->host, (void **)&d->host) : st;
    st = st == SY_OK ? sy_alloc(world->size, sizeof *d->host_of, (void **)&d->host_of) : st;
    SY_TRY(sy_agree(world, st));
    SY_TRY(sy_host_all_gather(world, &mine, all, sizeof mine, "places"));
    for (int32_t r = 0; r < world->size; r++) {
        int32_t h = d->n_hosts - 1;
        while (h >= 0 && (all[r].local_rank == 0 || strcmp(d->host[h].name, all[r].host) != 0)) {
            h--;
        }
        if (h < 0) {
            h = d->n_hosts++;
            snprintf(d->host[h].name, sizeof d->host[h].name, "%s", all[r].host);
        }
        d->host[h].n_ranks++;
        d->host_of[r] = h;
    }
    d->is_first = d->env->local_rank == 0;
cleanup:
    sy_free(&all);
    return st;
}

static int32_t count(const sy__doctor *d, sy__doctor_level level)
{
    int32_t n = 0;
    for (int32_t i = 0; i < d->n; i++) {
        n += d->item[i].level == level;
    }
    return n;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy__doctor d = {.env = env, .dir = sy_cli_text(cli, "run-dir")};
    d.dir = d.dir != NULL ? d.dir : ".";
    SY_TRY(find_hosts(&d));
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i].is_collective || d.is_first) {
            checks[i].look(&d);
        }
    }
    SY_TRY(sy_agree(env->world, d.st));
    SY_TRY(sy__doctor_gather(&d));
    if (env->world->rank == 0) {
        (sy_cli_given(cli, "json") ? sy__doctor_print_json : sy__doctor_print)(&d);
    }
    *exit_code = count(&d, SY__PROBLEM) > 0 ? 1 : 0;
cleanup:
    sy_free(&d.item);
    sy_free(&d.host_of);
    sy_free(&d.host);
    return st;
}

static const sy_option options[] = {
    {"run-dir", SY_OPTION_VALUE, "DIR",
     "Where runs are to live: its file system is tried (default: this folder)."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_doctor = {
    .name = "doctor",
    .operands = "",
    .help = "What this machine and job offer, and what is wrong with it; 1 if it stops a run.",
    .options = options,
    .run = run};
