/* An engine is made by all ranks together: what only one of them meets stops all, in one message,
   and leaves nobody waiting. */
#include "tests/support/mpi_assert.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "core/alloc.h"
#include "train/engine.h"

/* About 300 MB of embedding and head: far beyond what the limit below leaves. */
static const char config_text[] =
    "device: {backend: cpu, threads: 1}\n"
    "model: {vocab_size: 300000, hidden: 128, layers: 1, heads: 1, ffn_hidden: 16, seq_len: 8}\n";

enum { ROOM_BYTES = 128 << 20 };

static int64_t address_space_bytes(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld", &pages) != 1) {
        pages = 0;
    }
    if (f != NULL) {
        fclose(f);
    }
    return (int64_t)pages * 4096;
}

static bool sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return false;
#endif
}

static void create_one_rank_without_memory_all_fail(void **state)
{
    sy_comm *world = mpi_test_world();
    bool is_poor = world->rank == world->size - 1;
    sy_run_settings settings = {0};
    sy_engine *engine = NULL;
    struct rlimit old, poor;
    sy_trace trace;
    sy_status st;
    (void)state;
    if (sanitized()) {
        skip(); /* its shadow memory needs the address space */
    }
    assert_all_ok(
        sy_run_settings_parse(config_text, strlen(config_text), "test", NULL, 0, &settings));
    getrlimit(RLIMIT_AS, &old);
    poor = old;
    poor.rlim_cur = (rlim_t)(address_space_bytes() + ROOM_BYTES);
    if (is_poor) {
        setrlimit(RLIMIT_AS, &poor);
    }
    st = sy_engine_create(&(sy_engine_spec){.settings = &settings,
                                            .world = world,
                                            .use = SY_USE_TRAIN,
                                            .B = 1,
                                            .S = 8,
                                            .threads = 1},
                          &engine);
    setrlimit(RLIMIT_AS, &old);
    sy_error_take(&trace);
    assert_all(trace.rank == world->size - 1 || world->size == 1);
    assert_all_status(st, SY_ERR_MEMORY);
    assert_all(engine == NULL);
    sy_run_settings_free(&settings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_one_rank_without_memory_all_fail),
    };
    return mpi_test_main("engine", tests, sizeof tests / sizeof tests[0]);
}
