/* Groups: who is in them and in which order; placement; what is refused. */
#include "tests/support/mpi_assert.h"

#include <stdio.h>
#include <string.h>

#include "parallel/mesh.h"
#include "tests/support/test_device.h"

enum { MAX_RANKS = 8 };

static sy_device *dev;
static sy_stream *stream;

static int open_device(void **state)
{
    (void)state;
    assert_all_ok(test_device_open(&dev));
    assert_all_ok(sy_stream_create(dev, "mesh", &stream));
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
    return 0;
}

/* ranks [comm->size] from all, by way of the device. */
static sy_status gather(sy_comm *comm, int32_t world_rank, int32_t *ranks)
{
    sy_status st = SY_OK;
    int32_t *data = NULL;
    SY_TRY(sy_device_alloc(dev, (1 + MAX_RANKS) * (int64_t)sizeof *data, SY_MEM_OTHER,
                           (void **)&data));
    SY_TRY(test_upload(stream, data, &world_rank, sizeof world_rank));
    SY_TRY(sy_all_gather(comm, &(sy_comm_args){.stream = stream,
                                               .send = data,
                                               .recv = data + 1,
                                               .n = 1,
                                               .dtype = SY_I32,
                                               .what = "members",
                                               .layer = -1}));
    SY_TRY(test_download(stream, ranks, data + 1, comm->size * (int64_t)sizeof *data));
cleanup:
    sy_device_free(dev, &data);
    return st;
}

/* Are the world ranks in the group `first`, first + stride, ..., size of them? */
static bool members_are(const sy_mesh *mesh, sy_group group, int32_t world_rank, int32_t first,
                        int32_t stride, int32_t size)
{
    sy_comm *comm = mesh->group[group];
    int32_t ranks[MAX_RANKS] = {0};
    bool ok = comm && comm->size == size && comm->dev == dev &&
              strcmp(comm->name, sy_group_name(group)) == 0;
    ok = ok && gather(comm, world_rank, ranks) == SY_OK;
    for (int32_t i = 0; i < size && ok; i++) {
        ok = ranks[i] == first + i * stride;
    }
    return ok && ranks[comm->rank] == world_rank;
}

static void mesh_every_ep_forms_its_groups(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    const int32_t rank = world->rank, size = world->size;
    for (int32_t ep = 1; ep <= size; ep++) {
        sy_mesh *mesh = NULL;
        sy_mesh_spec spec = {.ep = ep, .n_experts = 12, .dev = dev};
        if (size % ep != 0 || 12 % ep != 0) {
            continue;
        }
        assert_all_ok(sy_mesh_create(world, &spec, &mesh));
        const sy_group whole[] = {SY_WORLD, SY_DP, SY_DENSE},
                       alone[] = {SY_PP, SY_CP, SY_TP, SY_ETP};
        for (int g = 0; g < 3; g++) {
            assert_all(members_are(mesh, whole[g], rank, 0, 1, size));
        }
        for (int g = 0; g < 4; g++) {
            assert_all(members_are(mesh, alone[g], rank, rank, 1, 1));
        }
        assert_all(members_are(mesh, SY_EP, rank, rank / ep * ep, 1, ep)); /* consecutive */
        assert_all(members_are(mesh, SY_EDP, rank, rank % ep, ep, size / ep));
        assert_all(mesh->host->size == size && mesh->io->size == size && !mesh->io->dev &&
                   mesh->placement->ep == ep);
        sy_mesh_destroy(&mesh);
        assert_all(mesh == NULL);
    }
}

static void mesh_of_a_part_of_the_world_stands_alone(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world(), *part = NULL;
    sy_mesh *mesh = NULL;
    sy_mesh_spec spec = {.ep = 1, .n_experts = 4, .dev = dev};
    assert_all_ok(sy_comm_split(world, world->rank == 0, world->rank, NULL, "part", &part));
    assert_all_ok(sy_mesh_create(part, &spec, &mesh));
    assert_all(mesh->group[SY_DENSE]->size == (world->rank == 0 ? 1 : world->size - 1));
    assert_all(mesh->group[SY_DENSE]->rank == (world->rank == 0 ? 0 : world->rank - 1));
    sy_mesh_destroy(&mesh);
    sy_comm_destroy(&part);
}

static void mesh_ep_that_does_not_divide_is_refused(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    sy_mesh *mesh = NULL;
    sy_mesh_spec spec = {.ep = world->size + 1, .n_experts = 12, .dev = dev};
    sy_status st = sy_mesh_create(world, &spec, &mesh);
    char expected[64];
    snprintf(expected, sizeof expected, "ep = %d does not divide the %d ranks", world->size + 1,
             world->size);
    assert_all(strstr(sy_error_message(), expected) != NULL);
    assert_all_status(st, SY_ERR_USAGE);
    spec.ep = world->size;
    spec.n_experts = 2 * world->size + 1;
    if (world->size > 1) {
        assert_all_status(sy_mesh_create(world, &spec, &mesh), SY_ERR_USAGE);
    }
    assert_all(mesh == NULL);
}

static void placement_puts_each_expert_in_one_slot(void **state)
{
    (void)state;
    const int32_t cases[][2] = {{8, 1}, {8, 2}, {12, 3}, {4, 4}, {0, 3}};
    for (int c = 0; c < 5; c++) {
        sy_placement *p = NULL;
        bool seen[16] = {false}, ok = true;
        assert_all_ok(sy_placement_create(cases[c][0], cases[c][1], &p));
        for (int32_t e = 0; e < p->E; e++) {
            int32_t w = p->wire[e];
            ok = ok && p->owner[e] >= 0 && p->owner[e] < p->ep && p->slot[e] >= 0 &&
                 p->slot[e] < p->E_loc && w == p->owner[e] * p->E_loc + p->slot[e] && !seen[w] &&
                 p->expert_at[w] == e && (e == 0 || p->owner[e] >= p->owner[e - 1]);
            seen[w] = true;
        }
        assert_all(ok && p->E == p->E_loc * p->ep);
        sy_placement_destroy(&p);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(mesh_every_ep_forms_its_groups),
        CASE(mesh_of_a_part_of_the_world_stands_alone),
        CASE(mesh_ep_that_does_not_divide_is_refused),
        cmocka_unit_test(placement_puts_each_expert_in_one_slot),
    };
    return mpi_test_main("mesh", tests, sizeof tests / sizeof tests[0]);
}
