#include "train/sample_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

sy_status sy_sample_log_open(int32_t rank, FILE **out)
{
    sy_status st = SY_OK;
    const char *prefix = getenv("SY_SAMPLE_LOG");
    char *path = NULL;
    if (prefix == NULL || *prefix == '\0') {
        return SY_OK;
    }
    SY_TRY(sy_asprintf(&path, "%s.%" PRId32, prefix, rank));
    *out = fopen(path, "a");
    SY_REQUIRE(*out != NULL, SY_ERR_USAGE, "SY_SAMPLE_LOG: cannot write '%s': %s", path,
               strerror(errno));
cleanup:
    sy_free(&path);
    return st;
}

sy_status sy_sample_log_add(FILE *log, int64_t step, int64_t data_step, const sy_batch *batch)
{
    sy_status st = SY_OK;
    if (log == NULL) {
        return SY_OK;
    }
    for (int32_t b = 0; b < batch->B; b++) {
        const int64_t at = (int64_t)b * batch->S;
        fprintf(log, "%" PRId64 " %" PRId64, step, data_step + batch->token_glb[at] / batch->S);
        for (int32_t t = 0; t < batch->S; t++) {
            fprintf(log, " %" PRId32, batch->ids[at + t]);
        }
        fputc('\n', log);
    }
    SY_REQUIRE(fflush(log) == 0 && !ferror(log), SY_ERR_IO,
               "SY_SAMPLE_LOG: the samples of step %" PRId64 " cannot be written: %s", step,
               strerror(errno));
cleanup:
    return st;
}

void sy_sample_log_close(FILE **log)
{
    if (*log != NULL) {
        (void)fclose(*log); /* every line was flushed */
        *log = NULL;
    }
}
