/* The world of one rank in which tests of checkpoints save and load; and how a call must end. After
   cmocka.h. */
#ifndef SY_TESTS_SUPPORT_CKPT_WORLD_H
#define SY_TESTS_SUPPORT_CKPT_WORLD_H

#include "core/alloc.h"
#include "parallel/mesh.h"
#include "tests/support/test_device.h"

static sy_comm *world;
static sy_mesh *mesh;
static sy_device *dev;

static inline int open_world(void **state)
{
    (void)state;
    sy_status st = sy_comm_world(false, &world);
    st = st == SY_OK ? test_device_open(&dev) : st;
    sy_mesh_spec spec = {.ep = 1, .dev = dev};
    st = st == SY_OK ? sy_mesh_create(world, &spec, &mesh) : st;
    return st == SY_OK ? 0 : -1;
}

static inline int close_world(void **state)
{
    (void)state;
    sy_mesh_destroy(&mesh);
    sy_device_close(&dev);
    sy_comm_destroy(&world);
    return sy_alloc_live() == 0 ? 0 : -1;
}

#define assert_ok(status) assert_status((status), SY_OK, "")

/* The call ended so, and its message holds the words. Clears the error. */
static inline void assert_status(sy_status st, sy_status want, const char *words)
{
    bool as_told = st == want && (st == SY_OK || strstr(sy_error_message(), words) != NULL);
    if (!as_told) {
        print_error("'%s', wanted '%s' and '%s': %s\n", sy_status_name(st), sy_status_name(want),
                    words, sy_error_message());
    }
    sy_error_clear();
    assert_true(as_told);
}

#endif
