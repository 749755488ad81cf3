/* Groups with so many names that HDF5 keeps them in heaps and trees of every depth: the reader,
   which does without the library, finds them all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "tests/support/scratch.h"

typedef struct crowd {
    int32_t n, name_chars;
    int32_t value; /* of them all */
} crowd;

static sy_comm *io;

/* "m/000017aaa": in the order of their numbers. */
static void name_of(const crowd *c, int32_t i, char name[256])
{
    memset(name, 'a', 256);
    snprintf(name, 256, "m/%06d", i);
    name[strlen(name)] = 'a';
    name[2 + c->name_chars] = '\0';
}

static sy_status walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    crowd *c = self;
    for (int32_t i = 0; i < c->n; i++) {
        char name[256];
        sy_part part = {.box = {.n_dim = 1, .shape = {1}}, .data = &c->value, .write = true};
        sy_field field = {.name = name,
                          .dtype = SY_I32,
                          .n_dim = 1,
                          .n_parts = 1,
                          .shape_glb = {1},
                          .parts = &part};
        name_of(c, i, name);
        SY_TRY(emit(to, &field));
    }
cleanup:
    return st;
}

static void crowd_comes_back(void **state, int32_t n, int32_t name_chars)
{
    char path[2 * SCRATCH_PATH], name[256];
    crowd c = {n, name_chars, 7};
    sy_owner owner = {"crowd", &c, walk, NULL};
    sy_state s = {.owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = "a: 1\n"};
    sy_checkpoint_info info;
    const int64_t live = sy_alloc_live();
    scratch_path(state, "a.h5", path);
    assert_int_equal(sy_checkpoint_save(path, &s, io), SY_OK);
    assert_int_equal(sy_checkpoint_info_read(path, &info), SY_OK);
    assert_int_equal(info.n_entries, n);
    for (int32_t i = 0; i < n; i++) {
        name_of(&c, i, name);
        assert_string_equal(info.entry[i].path, name);
    }
    sy_checkpoint_info_free(&info);
    assert_int_equal(sy_checkpoint_verify(path, io, NULL), SY_OK);
    assert_int_equal(sy_alloc_live(), live);
}

static void names_in_the_header_come_back(void **state)
{
    crowd_comes_back(state, 8, 7);
}

static void names_in_one_block_of_a_heap_come_back(void **state)
{
    crowd_comes_back(state, 9, 7);
}

/* A node of the tree has 45 names: 60 make two depths, 1300 three. */
static void names_in_many_blocks_come_back(void **state)
{
    crowd_comes_back(state, 60, 7);
    crowd_comes_back(state, 1300, 20);
}

/* A heap beyond 512 kB has blocks of blocks. */
static void names_in_blocks_of_blocks_come_back(void **state)
{
    crowd_comes_back(state, 3400, 180);
}

static int open_world(void **state)
{
    (void)state;
    return sy_comm_world(false, &io) == SY_OK ? 0 : -1;
}

static int close_world(void **state)
{
    (void)state;
    sy_comm_destroy(&io);
    return 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(names_in_the_header_come_back),
        CASE(names_in_one_block_of_a_heap_come_back),
        CASE(names_in_many_blocks_come_back),
        CASE(names_in_blocks_of_blocks_come_back),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
