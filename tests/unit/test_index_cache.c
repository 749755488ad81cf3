/* A table beside the data: built once by whoever comes first, whatever becomes of that one.
   Processes are forked; what is built is counted in shared memory. */
#include "tests/support/data_files.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "core/alloc.h"
#include "data/index_cache.h"

enum { BYTES = 100000, CHILDREN = 6 };

typedef struct shared {
    int builds;
    bool slow; /* the first builder sleeps until it is killed */
} shared;

static int setup(void **state)
{
    *state = data_dir_open();
    return 0;
}

static int teardown(void **state)
{
    data_dir_close(*state);
    assert_int_equal(sy_alloc_live(), 0);
    return 0;
}

static shared *share(void)
{
    void *p = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static void nap(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static sy_status build(void *self, void *table)
{
    shared *s = self;
    const int number = __atomic_add_fetch(&s->builds, 1, __ATOMIC_SEQ_CST);
    nap(20);
    memset(table, 7, BYTES / 2);
    if (s->slow && number == 1) {
        nap(60000);
    }
    memset(table, 7, BYTES);
    return SY_OK;
}

static sy_status refuse(void *self, void *table)
{
    (void)self, (void)table;
    return sy_error(SY_ERR_USAGE, "no such order");
}

static sy_index_cache_spec spec_of(const char *beside, sy_index_build *how, shared *s)
{
    return (sy_index_cache_spec){
        .beside = beside, .what = "order", .key = 42, .bytes = BYTES, .build = how, .self = s};
}

static bool is_whole(const sy_index_cache *cache)
{
    const uint8_t *table = cache->table;
    for (int i = 0; i < BYTES; i++) {
        if (table[i] != 7) {
            return false;
        }
    }
    return cache->bytes == BYTES;
}

/* Opens the table in a process of its own, which ends with 0 if it is whole. */
static pid_t start_child(const char *beside, shared *s)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sy_index_cache cache;
        const sy_index_cache_spec spec = spec_of(beside, build, s);
        _exit(sy_index_cache_open(&spec, &cache) == SY_OK && is_whole(&cache) ? 0 : 1);
    }
    return child;
}

static int wait_for(pid_t child)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void several_processes_build_a_table_once(void **state)
{
    const char *beside = data_path(*state, "a.bin");
    shared *s = share();
    pid_t child[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        child[i] = start_child(beside, s);
    }
    for (int i = 0; i < CHILDREN; i++) {
        assert_int_equal(wait_for(child[i]), 0);
    }
    assert_int_equal(s->builds, 1);
    munmap(s, sizeof *s);
}

static void builder_that_dies_is_followed_by_another(void **state)
{
    const char *beside = data_path(*state, "a.bin");
    shared *s = share();
    pid_t child[CHILDREN];
    s->slow = true;
    for (int i = 0; i < CHILDREN; i++) {
        child[i] = start_child(beside, s);
        nap(i == 0 ? 200 : 0); /* the first one builds */
    }
    nap(100);
    assert_int_equal(kill(child[0], SIGKILL), 0);
    assert_int_equal(wait_for(child[0]), 128 + SIGKILL);
    for (int i = 1; i < CHILDREN; i++) {
        assert_int_equal(wait_for(child[i]), 0);
    }
    assert_int_equal(s->builds, 2);
    munmap(s, sizeof *s);
}

static int count_files(const data_dir *dir)
{
    DIR *open = opendir(dir->path);
    int n = 0;
    assert_non_null(open);
    for (const struct dirent *e = readdir(open); e != NULL; e = readdir(open)) {
        n += e->d_name[0] != '.';
    }
    closedir(open);
    return n;
}

static void table_that_cannot_be_built_leaves_none(void **state)
{
    const char *beside = data_path(*state, "a.bin");
    shared *s = share();
    sy_index_cache cache;
    sy_index_cache_spec spec = spec_of(beside, refuse, s);
    data_expect_error(sy_index_cache_open(&spec, &cache), SY_ERR_USAGE, "no such", "order");
    assert_int_equal(count_files(*state), 0);
    spec.bytes = INT64_C(1) << 60; /* no disk has that */
    data_expect_error(sy_index_cache_open(&spec, &cache), SY_ERR_IO, "no room", "order");
    assert_int_equal(count_files(*state), 0);
    spec.bytes = BYTES;
    spec.build = build;
    assert_int_equal(sy_index_cache_open(&spec, &cache), SY_OK);
    assert_true(is_whole(&cache));
    sy_index_cache_close(&cache);
    spec.key++; /* of something else */
    assert_int_equal(sy_index_cache_open(&spec, &cache), SY_OK);
    sy_index_cache_close(&cache);
    assert_int_equal(s->builds, 2);
    munmap(s, sizeof *s);
}

static void folder_that_is_not_there_keeps_the_table_in_memory(void **state)
{
    const char *beside = data_path(*state, "none/a.bin");
    shared *s = share();
    sy_index_cache cache;
    const sy_index_cache_spec spec = spec_of(beside, build, s);
    assert_int_equal(sy_index_cache_open(&spec, &cache), SY_OK);
    assert_true(is_whole(&cache));
    sy_index_cache_close(&cache);
    munmap(s, sizeof *s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(several_processes_build_a_table_once, setup, teardown),
        cmocka_unit_test_setup_teardown(builder_that_dies_is_followed_by_another, setup, teardown),
        cmocka_unit_test_setup_teardown(table_that_cannot_be_built_leaves_none, setup, teardown),
        cmocka_unit_test_setup_teardown(folder_that_is_not_there_keeps_the_table_in_memory, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
