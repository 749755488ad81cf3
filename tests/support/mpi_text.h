/* A text to train on, in a folder that all ranks know: there is something to learn, so steps are
   small; and no id stands twice in a sequence of a few tokens: one that begins with one and the
   same id has tokens that are equal but for rounding, and expert choice has to take one of them. */
#ifndef SY_TESTS_SUPPORT_MPI_TEXT_H
#define SY_TESTS_SUPPORT_MPI_TEXT_H

#include "core/rng.h"
#include "data/token_writer.h"
#include "tests/support/mpi_scratch.h"

static inline sy_status write_text(const char *prefix)
{
    enum { N_TOKENS = 3000 };
    sy_status st = SY_OK;
    sy_token_writer *writer = NULL;
    int32_t id = 0;
    SY_TRY(sy_token_writer_create(prefix, 256, &writer));
    for (int64_t i = 0; i < N_TOKENS; i++) {
        id = (int32_t)((id + 1 + (int32_t)(sy_rng_u64(3, SY_RNG_TEST, (uint64_t)i) % 7)) % 256);
        SY_TRY(sy_token_writer_append(writer, &id, 1));
    }
    SY_TRY(sy_token_writer_end_document(writer));
    SY_TRY(sy_token_writer_finish(writer));
cleanup:
    sy_token_writer_destroy(&writer);
    return st;
}

/* Setup of a test: the text lies at "<folder>/t". close_folder takes it down. */
static inline int open_text(void **state)
{
    char prefix[2 * SCRATCH_PATH];
    open_folder(state);
    assert_all_ok(mpi_test_world()->rank == 0 ? write_text(path_of("t", prefix)) : SY_OK);
    return 0;
}

/* The setting that trains on it. */
static inline const char *text_setting(char setting[2 * SCRATCH_PATH])
{
    snprintf(setting, 2 * SCRATCH_PATH, "data.train=[{path: %s/t}]", folder);
    return setting;
}

#endif
