/* What a command writes: a path that does not exist yet, in a folder that does; and how it went. */
#ifndef SY_LAUNCH_OUTPUT_H
#define SY_LAUNCH_OUTPUT_H

#include "launch/cli.h"
#include "report/progress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The value of -o, a folder to be made or a file: SY_ERR_USAGE where it is missing, exists already,
   or cannot be written there. Rank 0 looks. Collective over world. */
sy_status sy_output_path(const sy_cli *cli, sy_comm *world, bool is_folder, const char **out);

/* A progress line in MB, on rank 0 of long work; see sy_transfer_progress. Not collective. */
typedef struct sy_output_progress {
    const char *what;
    sy_progress *line; /* opened by the first call */
} sy_output_progress;
void sy_output_progress_update(void *self, int64_t done, int64_t total);

/* "1.23 GB", "456 kB". Returns buf. Not collective. */
const char *sy_format_bytes(double bytes, char *buf, size_t buf_bytes);

/* Bytes of text as a terminal may show them: control characters as \n or \x1b. Not collective. */
void sy_print_escaped(const char *text, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
