/* checkpoint/safetensors, writing: the bytes are those that the format's description gives, and a
   folder has its final name with everything in it or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "checkpoint/safetensors.h"
#include "core/alloc.h"
#include "core/fault.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch.h"

static sy_comm *world;

static int open_world(void **state)
{
    (void)state;
    return sy_comm_world(false, &world) == SY_OK ? 0 : -1;
}

static int close_world(void **state)
{
    (void)state;
    sy_comm_destroy(&world);
    return sy_alloc_live() == 0 ? 0 : -1;
}

static void expect_error(sy_status st, sy_status want, const char *word1, const char *word2)
{
    char message[SY_TRACE_MESSAGE];
    snprintf(message, sizeof message, "%s", sy_error_message());
    sy_error_clear();
    if (st != want || !strstr(message, word1) || !strstr(message, word2)) {
        fail_msg("status %s, message \"%s\": wanted %s, \"%s\" and \"%s\"", sy_status_name(st),
                 message, sy_status_name(want), word1, word2);
    }
}

/* Names in the test's folder, but for the "out" that is expected. */
static int n_others(void **state)
{
    int n = 0;
    DIR *dir = opendir(((scratch *)*state)->dir);
    assert_non_null(dir);
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
             strcmp(e->d_name, "out") != 0;
    }
    closedir(dir);
    return n;
}

static bool has(void **state, const char *name)
{
    char path[2 * SCRATCH_PATH];
    return scratch_exists(scratch_path(state, name, path));
}

static void assert_holds(void **state, const char *name, const void *bytes, size_t n)
{
    char path[2 * SCRATCH_PATH];
    uint8_t *got = malloc(n + 1);
    FILE *f = fopen(scratch_path(state, name, path), "rb");
    assert_non_null(f);
    assert_int_equal(fread(got, 1, n + 1, f), n);
    assert_memory_equal(got, bytes, n);
    fclose(f);
    free(got);
}

static const sy_st_spec five[] = {
    {"b.weight", SY_BF16, 2, {2, 3}}, {"u", SY_U8, 1, {3}},  {"a \"q\"", SY_F32, 1, {2}},
    {"m", SY_F16, 2, {0, 5}},         {"z", SY_I64, 0, {0}},
};
enum { N_FIVE = 5 };
static const int64_t five_bytes[N_FIVE] = {12, 3, 8, 0, 8};

static sy_status begin(void **state, const char *name, int64_t max_shard_bytes, sy_st_writer **w)
{
    char path[2 * SCRATCH_PATH];
    return sy_st_writer_create(scratch_path(state, name, path), five, N_FIVE, max_shard_bytes,
                               world, w);
}

/* Byte k of tensor i. */
static uint8_t payload(int64_t i, int64_t k)
{
    return (uint8_t)(i * 16 + k);
}

static sy_status write_bytes(sy_st_writer *w, int64_t i, int64_t first, int64_t n)
{
    uint8_t bytes[64];
    for (int64_t k = 0; k < n; k++) {
        bytes[k] = payload(i, first + k);
    }
    return sy_st_write(w, i, first, bytes, n);
}

static sy_status write_five(sy_st_writer *w)
{
    sy_status st = SY_OK;
    for (int64_t i = N_FIVE; i-- > 0 && st == SY_OK;) {
        const int64_t half = five_bytes[i] / 2;
        st = write_bytes(w, i, half, five_bytes[i] - half);
        st = st == SY_OK ? write_bytes(w, i, 0, half) : st;
    }
    return st;
}

static size_t put_payload(uint8_t *data, size_t at, int64_t i)
{
    for (int64_t k = 0; k < five_bytes[i]; k++) {
        data[at++] = payload(i, k);
    }
    return at;
}

static void one_shard_is_written_as_the_format_says(void **state)
{
    /* I64, F32, BF16, F16, U8: the widest first; 344 characters are a multiple of 8. */
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"z\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
        "\"a \\\"q\\\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
        "\"b.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
        "\"m\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[28,28]},"
        "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[28,31]}}";
    static const int64_t order[] = {4, 2, 0, 3, 1};
    sy_st_writer *w = NULL;
    assert_int_equal(begin(state, "out/", 0, &w), SY_OK);
    assert_false(has(state, "out"));
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(sy_st_write_file(w, "config.json", "{}\n", 3), SY_OK);
    assert_int_equal(sy_st_write_file(w, "empty", NULL, 0), SY_OK);
    assert_false(has(state, "out"));
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    assert_null(w);

    char padded[sizeof header + 8];
    uint8_t data[31];
    size_t n = (sizeof header - 1 + 7) / 8 * 8, at = 0;
    snprintf(padded, sizeof padded, "%-*s", (int)n, header);
    for (int i = 0; i < N_FIVE; i++) {
        at = put_payload(data, at, order[i]);
    }
    st_bytes want = st_make_n(padded, n, data, sizeof data);
    assert_holds(state, "out/model.safetensors", want.at, want.n);
    st_free(&want);
    assert_holds(state, "out/config.json", "{}\n", 3);
    assert_holds(state, "out/empty", "", 0);
    assert_false(has(state, "out/model.safetensors.index.json"));
    assert_int_equal(n_others(state), 0);
}

/* Shards of at most 20 bytes, in the order given: b and u (15), a, m and z (16). */
static void several_shards_are_written_with_an_index(void **state)
{
    static const char header_1[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"b.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
        "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[12,15]}}";
    static const char header_2[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"z\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
        "\"a \\\"q\\\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
        "\"m\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[16,16]}}";
    static const char index[] = "{\n"
                                "  \"metadata\": {\n"
                                "    \"total_size\": 31\n"
                                "  },\n"
                                "  \"weight_map\": {\n"
                                "    \"b.weight\": \"model-00001-of-00002.safetensors\",\n"
                                "    \"u\": \"model-00001-of-00002.safetensors\",\n"
                                "    \"a \\\"q\\\"\": \"model-00002-of-00002.safetensors\",\n"
                                "    \"m\": \"model-00002-of-00002.safetensors\",\n"
                                "    \"z\": \"model-00002-of-00002.safetensors\"\n"
                                "  }\n"
                                "}";
    static const struct {
        const char *name, *header;
        int64_t order[3];
        int n;
    } shards[] = {{"out/model-00001-of-00002.safetensors", header_1, {0, 1}, 2},
                  {"out/model-00002-of-00002.safetensors", header_2, {4, 2, 3}, 3}};
    sy_st_writer *w = NULL;
    assert_int_equal(begin(state, "out", 20, &w), SY_OK);
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    for (int s = 0; s < 2; s++) {
        char padded[512];
        uint8_t data[32];
        size_t n = (strlen(shards[s].header) + 7) / 8 * 8, at = 0;
        snprintf(padded, sizeof padded, "%-*s", (int)n, shards[s].header);
        for (int i = 0; i < shards[s].n; i++) {
            at = put_payload(data, at, shards[s].order[i]);
        }
        st_bytes want = st_make_n(padded, n, data, at);
        assert_holds(state, shards[s].name, want.at, want.n);
        st_free(&want);
    }
    assert_holds(state, "out/model.safetensors.index.json", index, sizeof index - 1);
    assert_false(has(state, "out/model.safetensors"));
}

static void tensor_above_the_limit_has_its_own_shard(void **state)
{
    static const sy_st_spec specs[] = {
        {"a", SY_U8, 1, {100}}, {"b", SY_U8, 1, {4}}, {"c", SY_U8, 1, {6}}, {"d", SY_U8, 1, {100}}};
    static const uint8_t zeros[100];
    char path[2 * SCRATCH_PATH], name[96];
    sy_st_writer *w = NULL;
    scratch_path(state, "out", path);
    assert_int_equal(sy_st_writer_create(path, specs, 4, 10, world, &w), SY_OK);
    for (int64_t i = 0; i < 4; i++) {
        assert_int_equal(sy_st_write(w, i, 0, zeros, specs[i].shape[0]), SY_OK);
    }
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    sy_st_set *set = NULL;
    assert_int_equal(sy_st_open(path, &set), SY_OK);
    for (int i = 0; i < 4; i++) { /* b and c fill the second to its last byte */
        snprintf(name, sizeof name, "/model-0000%d-of-00003.safetensors", (i + 3) / 2);
        assert_non_null(strstr(set->tensor[i].file, name));
    }
    sy_st_close(&set);
}

/* More shards than are kept open, written crosswise. */
static void many_shards_are_written_in_any_order(void **state)
{
    enum { N = 23, BYTES = 7 };
    sy_st_spec specs[N];
    char names[N][8], path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    scratch_path(state, "out", path);
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%02d", i);
        specs[i] = (sy_st_spec){names[i], SY_U8, 1, {BYTES}};
    }
    assert_int_equal(sy_st_writer_create(path, specs, N, 1, world, &w), SY_OK);
    for (int k = 0; k < BYTES; k++) {
        for (int i = 0; i < N; i++) {
            assert_int_equal(write_bytes(w, (i * 5 + k) % N, k, 1), SY_OK);
        }
    }
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    sy_st_set *set = NULL;
    assert_int_equal(sy_st_open(path, &set), SY_OK);
    assert_int_equal(set->n, N);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < BYTES; k++) {
            assert_int_equal(((const uint8_t *)set->tensor[i].data)[k], payload(i, k));
        }
    }
    sy_st_close(&set);
}

/* ---- what must not appear ---- */

static void folder_that_was_not_published_is_removed(void **state)
{
    sy_st_writer *w = NULL;
    assert_int_equal(begin(state, "out", 20, &w), SY_OK);
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(sy_st_write_file(w, "config.json", "{}", 2), SY_OK);
    assert_int_equal(n_others(state), 1);
    sy_st_writer_destroy(&w);
    assert_false(has(state, "out"));
    assert_int_equal(n_others(state), 0);
}

static void bytes_that_are_missing_or_written_twice_are_named(void **state)
{
    sy_st_writer *w = NULL;
    assert_int_equal(begin(state, "out", 20, &w), SY_OK);
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(write_bytes(w, 1, 2, 1), SY_OK);
    expect_error(sy_st_writer_publish(w), SY_ERR_INTERNAL, "4 bytes of tensor 'u'", "has 3");
    sy_st_writer_destroy(&w);
    assert_int_equal(begin(state, "out", 20, &w), SY_OK);
    for (int64_t i = 0; i < N_FIVE; i++) {
        assert_int_equal(write_bytes(w, i, 0, five_bytes[i] - (i == 2)), SY_OK);
    }
    expect_error(sy_st_writer_publish(w), SY_ERR_INTERNAL, "7 bytes of tensor 'a \"q\"'", "has 8");
    sy_st_writer_destroy(&w);
    assert_false(has(state, "out"));
    assert_int_equal(n_others(state), 0);
}

static void folder_that_exists_is_refused_and_kept(void **state)
{
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    assert_int_equal(mkdir(scratch_path(state, "out", path), 0700), 0);
    scratch_write(scratch_path(state, "out/mine", path), "mine");
    expect_error(begin(state, "out", 0, &w), SY_ERR_USAGE, "/out' exists", "another name");
    expect_error(begin(state, "out///", 0, &w), SY_ERR_USAGE, "/out' exists", "another name");
    assert_holds(state, "out/mine", "mine", 4);
    assert_int_equal(n_others(state), 0);
    assert_int_equal(symlink("nowhere", scratch_path(state, "link", path)), 0);
    expect_error(begin(state, "link", 0, &w), SY_ERR_USAGE, "/link' exists", "another name");
    expect_error(begin(state, "none/out", 0, &w), SY_ERR_USAGE, "cannot create", "none/");
    expect_error(begin(state, "out/mine/out", 0, &w), SY_ERR_USAGE, "cannot create", "mine/");
    assert_null(w);
}

/* It may come into being while the bytes are written. */
static void folder_that_appears_meanwhile_is_kept(void **state)
{
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    assert_int_equal(begin(state, "out", 0, &w), SY_OK);
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(mkdir(scratch_path(state, "out", path), 0700), 0);
    expect_error(sy_st_writer_publish(w), SY_ERR_USAGE, "/out'", "meantime");
    sy_st_writer_destroy(&w);
    assert_int_equal(rmdir(path), 0); /* still empty */
    assert_int_equal(n_others(state), 0);
}

static void left_over_of_a_killed_run_is_replaced(void **state)
{
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    assert_int_equal(mkdir(scratch_path(state, ".out.tmp", path), 0700), 0);
    scratch_write(scratch_path(state, ".out.tmp/model.safetensors", path), "old");
    scratch_write(scratch_path(state, ".out.tmp/other", path), "old");
    assert_int_equal(begin(state, "out", 0, &w), SY_OK);
    assert_int_equal(write_five(w), SY_OK);
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    assert_false(has(state, "out/other"));
    assert_int_equal(n_others(state), 0);
}

/* Whatever call fails, all is removed, and the second attempt succeeds. */
static void failure_at_any_call_leaves_nothing(void **state)
{
    static const char *const points[] = {"checkpoint_write", "checkpoint_fsync",
                                         "checkpoint_rename"};
    int n_failed = 0;
    for (int p = 0; p < 3; p++) {
        for (int nth = 1;; nth++) {
            char fault[64];
            snprintf(fault, sizeof fault, "%s:%d:fail", points[p], nth);
            setenv("SY_FAULT", fault, 1);
            assert_int_equal(sy_fault_setup(0), SY_OK);
            sy_st_writer *w = NULL;
            sy_status st = begin(state, "out", 20, &w);
            st = st == SY_OK ? write_five(w) : st;
            st = st == SY_OK ? sy_st_writer_publish(w) : st;
            unsetenv("SY_FAULT");
            assert_int_equal(sy_fault_setup(0), SY_OK);
            sy_st_writer_destroy(&w);
            assert_int_equal(n_others(state), 0);
            if (st == SY_OK) { /* the call comes less often */
                char path[2 * SCRATCH_PATH];
                assert_true(has(state, "out"));
                assert_int_equal(
                    nftw(scratch_path(state, "out", path), scratch_remove_one, 8, FTW_DEPTH), 0);
                break;
            }
            assert_false(has(state, "out"));
            expect_error(st, SY_ERR_IO, points[p], "fault");
            n_failed++;
        }
    }
    assert_int_equal(n_failed, 13 + 7 + 1); /* writes; syncs of files and folders; the rename */
}

static void disk_that_is_full_shows_at_the_begin(void **state)
{
    struct rlimit old, small = {.rlim_cur = 256};
    sy_st_writer *w = NULL;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    sy_status st = begin(state, "out", 0, &w);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    expect_error(st, SY_ERR_IO, ".out.tmp/model.safetensors", "MB");
    assert_null(w);
    assert_int_equal(n_others(state), 0);
}

static void broken_calls_are_refused(void **state)
{
    static const sy_st_spec twice[] = {
        {"a", SY_U8, 1, {1}}, {"b", SY_U8, 0, {0}}, {"a", SY_F32, 0, {0}}};
    static const sy_st_spec reserved = {"__metadata__", SY_U8, 0, {0}};
    static const sy_st_spec not_utf8 = {"a\xff", SY_U8, 0, {0}};
    static const sy_st_spec huge = {"a", SY_F32, 2, {INT64_C(1) << 40, INT64_C(1) << 40}};
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    scratch_path(state, "out", path);
    expect_error(sy_st_writer_create(path, twice, 3, 0, world, &w), SY_ERR_INTERNAL, "'a'",
                 "twice");
    expect_error(sy_st_writer_create(path, &reserved, 1, 0, world, &w), SY_ERR_INTERNAL,
                 "__metadata__", "name");
    expect_error(sy_st_writer_create(path, &not_utf8, 1, 0, world, &w), SY_ERR_INTERNAL, "'a",
                 "UTF-8");
    expect_error(sy_st_writer_create(path, &huge, 1, 0, world, &w), SY_ERR_USAGE, "", "");
    expect_error(sy_st_writer_create("", five, N_FIVE, 0, world, &w), SY_ERR_USAGE, "empty", "");
    assert_null(w);
    assert_int_equal(n_others(state), 0);

    assert_int_equal(begin(state, "out", 0, &w), SY_OK);
    expect_error(sy_st_write(w, 5, 0, "", 0), SY_ERR_INTERNAL, "no tensor 5", "out");
    expect_error(sy_st_write(w, 1, 1, "abc", 3), SY_ERR_INTERNAL, "'u'", "from 1 to 4");
    expect_error(sy_st_write(w, 1, -1, "abc", 3), SY_ERR_INTERNAL, "'u'", "from -1 to 2");
    expect_error(sy_st_write_file(w, "../x", "", 0), SY_ERR_INTERNAL, "'../x'", "name");
    expect_error(sy_st_write_file(w, "", "", 0), SY_ERR_INTERNAL, "''", "name");
    expect_error(sy_st_write_file(w, "model.safetensors", "", 0), SY_ERR_INTERNAL,
                 "'model.safetensors'", "there already");
    sy_st_writer_destroy(&w);
    assert_int_equal(n_others(state), 0);
}

static void nothing_at_all_can_be_written(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}}";
    char path[2 * SCRATCH_PATH], padded[64];
    sy_st_writer *w = NULL;
    assert_int_equal(sy_st_writer_create(scratch_path(state, "out", path), NULL, 0, 0, world, &w),
                     SY_OK);
    assert_int_equal(sy_st_writer_publish(w), SY_OK);
    sy_st_writer_destroy(&w);
    snprintf(padded, sizeof padded, "%-32s", header);
    st_bytes want = st_make_n(padded, 32, NULL, 0);
    assert_holds(state, "out/model.safetensors", want.at, want.n);
    st_free(&want);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_shard_is_written_as_the_format_says),
        CASE(several_shards_are_written_with_an_index),
        CASE(tensor_above_the_limit_has_its_own_shard),
        CASE(many_shards_are_written_in_any_order),
        CASE(folder_that_was_not_published_is_removed),
        CASE(bytes_that_are_missing_or_written_twice_are_named),
        CASE(folder_that_exists_is_refused_and_kept),
        CASE(folder_that_appears_meanwhile_is_kept),
        CASE(left_over_of_a_killed_run_is_replaced),
        CASE(failure_at_any_call_leaves_nothing),
        CASE(disk_that_is_full_shows_at_the_begin),
        CASE(broken_calls_are_refused),
        CASE(nothing_at_all_can_be_written),
    };
    return cmocka_run_group_tests_name("safetensors writer", tests, open_world, close_world);
}
