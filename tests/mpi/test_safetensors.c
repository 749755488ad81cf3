/* The parallel writer: whoever writes which bytes, the files are the same ones, and what fails on
   one rank fails on all and leaves nothing. */
#include "tests/support/mpi_assert.h"

#include <dirent.h>

#include "checkpoint/safetensors.h"
#include "core/clock.h"
#include "core/fault.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/mpi_scratch.h"

enum { N_SPECS = 7, N_PIECE = 5 };

/* Fewer bytes than ranks, several shards, tensors across the limit. */
static const sy_st_spec specs[N_SPECS] = {
    {"layers.0.w", SY_BF16, 2, {7, 11}},
    {"layers.0.b", SY_F32, 1, {3}},
    {"layers.1.w", SY_F32, 2, {5, 9}},
    {"empty", SY_F32, 1, {0}},
    {"step", SY_I64, 0, {0}},
    {"one", SY_U8, 0, {0}},
    {"wide", SY_F64, 3, {2, 3, 5}},
};
static const int64_t spec_bytes[N_SPECS] = {154, 12, 180, 0, 8, 1, 240};
enum { SHARD_BYTES = 200 };
static const struct {
    const char *name, *header;
    int order[4], n;
} shards[] = {
    {"model-00001-of-00003.safetensors",
     "{\"__metadata__\":{\"format\":\"pt\"},"
     "\"layers.0.b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
     "\"layers.0.w\":{\"dtype\":\"BF16\",\"shape\":[7,11],\"data_offsets\":[12,166]}}",
     {1, 0},
     2},
    {"model-00002-of-00003.safetensors",
     "{\"__metadata__\":{\"format\":\"pt\"},"
     "\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
     "\"empty\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
     "\"layers.1.w\":{\"dtype\":\"F32\",\"shape\":[5,9],\"data_offsets\":[8,188]},"
     "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[188,189]}}",
     {4, 3, 2, 5},
     4},
    {"model-00003-of-00003.safetensors",
     "{\"__metadata__\":{\"format\":\"pt\"},"
     "\"wide\":{\"dtype\":\"F64\",\"shape\":[2,3,5],\"data_offsets\":[0,240]}}",
     {6},
     1},
};
enum { N_SHARDS = sizeof shards / sizeof shards[0] };

/* Names in the folder that begin with a dot or with "out". */
static int n_names(void)
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (const struct dirent *e = dir ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

static uint8_t payload(int64_t i, int64_t k)
{
    return (uint8_t)(i * 37 + k);
}

/* Pieces of five bytes, dealt over the ranks in the turn-th way; `lost` is left out by its rank. */
static sy_status write_mine(sy_st_writer *w, int turn, int64_t lost)
{
    sy_status st = SY_OK;
    const sy_comm *world = mpi_test_world();
    int64_t piece = 0;
    for (int64_t i = 0; i < N_SPECS && st == SY_OK; i++) {
        for (int64_t at = 0; at < spec_bytes[i] && st == SY_OK; at += N_PIECE, piece++) {
            const int64_t owner = turn == 0 ? piece : turn == 1 ? i : world->size - 1 - piece / 7;
            uint8_t bytes[N_PIECE];
            const int64_t n = spec_bytes[i] - at < N_PIECE ? spec_bytes[i] - at : N_PIECE;
            if ((owner % world->size + world->size) % world->size != world->rank || piece == lost) {
                continue;
            }
            for (int64_t k = 0; k < n; k++) {
                bytes[k] = payload(i, at + k);
            }
            st = sy_st_write(w, i, at, bytes, n);
        }
    }
    return st;
}

static bool holds(const char *path, const st_bytes *want)
{
    uint8_t *got = malloc(want->n + 1);
    FILE *f = fopen(path, "rb");
    bool same = f != NULL && fread(got, 1, want->n + 1, f) == want->n &&
                memcmp(got, want->at, want->n) == 0;
    if (f != NULL) {
        fclose(f);
    }
    free(got);
    return same;
}

/* Every shard, byte by byte. */
static bool files_are_right(const char *name)
{
    bool right = true;
    for (int s = 0; s < N_SHARDS; s++) {
        char padded[1024], path[2 * SCRATCH_PATH], full[128];
        uint8_t data[512];
        size_t n = (strlen(shards[s].header) + 7) / 8 * 8, at = 0;
        snprintf(padded, sizeof padded, "%-*s", (int)n, shards[s].header);
        for (int i = 0; i < shards[s].n; i++) {
            const int64_t spec = shards[s].order[i];
            for (int64_t k = 0; k < spec_bytes[spec]; k++) {
                data[at++] = payload(spec, k);
            }
        }
        st_bytes want = st_make_n(padded, n, data, at);
        snprintf(full, sizeof full, "%s/%s", name, shards[s].name);
        right = right && holds(path_of(full, path), &want);
        st_free(&want);
    }
    return right;
}

static void writer_ranks_write_pieces_the_files_are_the_same(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    for (int turn = 0; turn < 3; turn++) {
        char name[8], path[2 * SCRATCH_PATH];
        sy_st_writer *w = NULL;
        sy_st_set *set = NULL;
        snprintf(name, sizeof name, "out%d", turn);
        path_of(name, path);
        assert_all_ok(sy_st_writer_create(path, specs, N_SPECS, SHARD_BYTES, world, &w));
        assert_all_ok(write_mine(w, turn, -1));
        const bool last = world->rank == world->size - 1;
        assert_all_ok(last ? sy_st_write_file(w, "config.json", "{}", 2) : SY_OK);
        assert_all(!scratch_exists(path));
        assert_all_ok(sy_st_writer_publish(w));
        sy_st_writer_destroy(&w);
        assert_all(files_are_right(name));
        assert_all_ok(sy_st_open(path, &set));
        assert_all(set->n == N_SPECS && set->bytes == 595);
        sy_st_close(&set);
        assert_all(n_names() == turn + 1);
    }
}

static void writer_piece_that_no_rank_wrote_is_missed_by_all(void **state)
{
    (void)state;
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    assert_all_ok(sy_st_writer_create(path_of("out", path), specs, N_SPECS, SHARD_BYTES,
                                      mpi_test_world(), &w));
    assert_all_ok(write_mine(w, 0, 40)); /* bytes 20 to 24 of layers.1.w */
    sy_status st = sy_st_writer_publish(w);
    assert_all(strstr(sy_error_message(), "175 bytes of tensor 'layers.1.w', which has 180"));
    assert_all_status(st, SY_ERR_INTERNAL);
    sy_st_writer_destroy(&w);
    assert_all_ok(sy_host_barrier(mpi_test_world(), "removed"));
    assert_all(n_names() == 0);
}

static void writer_layouts_that_differ_are_refused(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    const bool odd = world->rank == world->size - 1 && world->size > 1;
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    sy_status st =
        sy_st_writer_create(path_of("out", path), specs, N_SPECS - odd, SHARD_BYTES, world, &w);
    if (world->size > 1) {
        assert_all(w == NULL && strstr(sy_error_message(), "not the same on all ranks"));
        assert_all_status(st, SY_ERR_USAGE);
    }
    sy_st_writer_destroy(&w);
    assert_all_ok(sy_host_barrier(world, "removed"));
    assert_all(n_names() == 0);
}

static void writer_folder_that_exists_is_refused_by_all(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    path_of("out", path);
    bool made = world->rank != 0 || mkdir(path, 0700) == 0;
    assert_all(made);
    sy_status st = sy_st_writer_create(path, specs, N_SPECS, 0, world, &w);
    assert_all(w == NULL && strstr(sy_error_message(), "/out' exists"));
    assert_all_status(st, SY_ERR_USAGE);
    assert_all(n_names() == 1);
}

/* The failure of one rank in any call is everybody's. */
static void writer_one_rank_fails_nothing_is_left(void **state)
{
    static const char *const points[] = {"checkpoint_write:2", "checkpoint_fsync:1",
                                         "checkpoint_fsync:3", "checkpoint_rename:1"};
    (void)state;
    sy_comm *world = mpi_test_world();
    for (int32_t who = 0; who < world->size; who++) {
        for (int p = 0; p < 4; p++) {
            char fault[64], path[2 * SCRATCH_PATH];
            sy_st_writer *w = NULL;
            snprintf(fault, sizeof fault, "%s:fail:%d", points[p], who);
            setenv("SY_FAULT", fault, 1);
            assert_all_ok(sy_fault_setup(world->rank));
            sy_status st =
                sy_st_writer_create(path_of("out", path), specs, N_SPECS, SHARD_BYTES, world, &w);
            if (st == SY_OK) {
                sy_status mine = write_mine(w, 0, -1);
                int32_t worst = (int32_t)mine;
                assert_all_ok(sy_host_all_reduce(world, &worst, 1, SY_I32, SY_MAX, "test"));
                sy_error_clear();
                st = worst == SY_OK ? sy_st_writer_publish(w) : SY_ERR_IO;
            }
            unsetenv("SY_FAULT");
            assert_all_ok(sy_fault_setup(world->rank));
            sy_error_clear();
            sy_st_writer_destroy(&w);
            assert_all_ok(sy_host_barrier(world, "removed"));
            const bool renames = who == 0 || p < 3; /* only rank 0 comes by the rename */
            assert_all(st == (renames ? SY_ERR_IO : SY_OK));
            assert_all(n_names() == (renames ? 0 : 1));
            if (!renames) {
                bool removed =
                    world->rank != 0 || nftw(path, scratch_remove_one, 8, FTW_DEPTH) == 0;
                assert_all(removed);
            }
        }
    }
}

/* Rank 0 gives up at once; what the last one still writes must find its file. */
static void writer_given_up_while_a_rank_writes_waits_for_it(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH];
    sy_st_writer *w = NULL;
    sy_status st = SY_OK;
    assert_all_ok(
        sy_st_writer_create(path_of("out", path), specs, N_SPECS, SHARD_BYTES, world, &w));
    if (world->rank == world->size - 1) {
        sy_clock_sleep_s(0.2);
        st = sy_st_write(w, 5, 0, "x", 1);
    }
    sy_st_writer_destroy(&w);
    assert_all_ok(st);
    assert_all_ok(sy_host_barrier(world, "removed"));
    assert_all(n_names() == 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, open_folder, close_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(writer_ranks_write_pieces_the_files_are_the_same),
        CASE(writer_piece_that_no_rank_wrote_is_missed_by_all),
        CASE(writer_layouts_that_differ_are_refused),
        CASE(writer_folder_that_exists_is_refused_by_all),
        CASE(writer_one_rank_fails_nothing_is_left),
        CASE(writer_given_up_while_a_rank_writes_waits_for_it),
    };
    return mpi_test_main("safetensors", tests, sizeof tests / sizeof tests[0]);
}
