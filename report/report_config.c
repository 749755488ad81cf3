/* The keys of section `run`. */
#include "report/report_config.h"

#include <string.h>

#include "core/alloc.h"

static const sy_config_key run_keys[] = {
    {.name = "name",
     .type = SY_CFG_STR,
     .offset = offsetof(sy_run_config, name),
     .default_text = "null",
     .help = "Name of the run, a plain file name; needed where neither run.dir nor --run-dir is "
             "given."},
    {.name = "dir",
     .type = SY_CFG_STR,
     .offset = offsetof(sy_run_config, dir),
     .default_text = "null",
     .help = "Run directory; null: runs/<name>."},
    {.name = "seed",
     .type = SY_CFG_I64,
     .offset = offsetof(sy_run_config, seed),
     .default_text = "1",
     .min = 0,
     .max = 9e15,
     .help = "Seed of every random draw: initial weights, data order, sampling."},
    {.name = "deterministic",
     .type = SY_CFG_BOOL,
     .offset = offsetof(sy_run_config, deterministic),
     .default_text = "true",
     .help = "Give the same bits for the same configuration, layout and backend. This version "
             "always does."},
    {0},
};

static sy_status check_run(const void *section, const sy_config *config)
{
    const sy_run_config *run = section;
    if (run->name == NULL || run->dir != NULL) {
        return SY_OK;
    }
    bool is_dots = strcmp(run->name, ".") == 0 || strcmp(run->name, "..") == 0;
    if (run->name[0] == '\0' || is_dots || strchr(run->name, '/') != NULL) {
        return sy_config_error(config, "run.name",
                               "run.name '%s' cannot be a folder's name: use a plain name, or set "
                               "run.dir to a path",
                               run->name);
    }
    return SY_OK;
}

const sy_config_section sy_run_section = {
    .name = "run",
    .help = "The run: its name, its directory, its seed.",
    .keys = run_keys,
    .struct_bytes = sizeof(sy_run_config),
    .check = check_run,
};

sy_status sy_run_config_dir(const sy_run_config *run, const char *option, char **out)
{
    if (option != NULL) {
        return sy_strdup(option, out);
    }
    if (run->dir != NULL) {
        return sy_strdup(run->dir, out);
    }
    if (run->name != NULL) {
        return sy_asprintf(out, "runs/%s", run->name);
    }
    return sy_error(SY_ERR_USAGE,
                    "the run has no directory: set run.name or run.dir, or give --run-dir DIR");
}
