/* Checkpoints over every number of ranks and every way to deal a state to them: one file, whoever
   wrote it, and the same values, whoever reads it. What fails on one rank fails on all. */
#include "tests/support/mpi_assert.h"

#include <fcntl.h>

#include "checkpoint/saver.h"
#include "core/alloc.h"
#include "core/fault.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/mpi_scratch.h"

/* Several pieces, several ranks in one piece, fewer rows than ranks, nothing at all. */
static const ckpt_field fields[] = {
    CKPT_FIELD("model/embed", SY_F32, DEAL_WHOLE, 2, 301, 1000),
    CKPT_FIELD("model/layers/000/attn/q", SY_BF16, DEAL_WHOLE, 2, 70, 51),
    CKPT_FIELD("model/layers/000/moe/experts/gate", SY_F32, DEAL_WHOLE, 3, 12, 300, 311),
    CKPT_FIELD("model/layers/000/moe/router", SY_F32, DEAL_WHOLE, 2, 2, 31),
    CKPT_FIELD("model/norm", SY_F64, DEAL_WHOLE, 1, 3333),
    CKPT_FIELD("optim/exp_avg/embed", SY_F32, DEAL_WHOLE, 2, 120, 1001),
    CKPT_FIELD("state/counts", SY_I32, DEAL_WHOLE, 4, 2, 3, 2, 2),
    CKPT_FIELD("state/empty", SY_F32, DEAL_WHOLE, 2, 0, 5),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static bool beside; /* saves run in a thread, and the state changes while they do */

/* The first n ranks of the world, as a mesh with the state dealt to them in the turn-th way; the
   others have none. */
typedef struct part_of_world {
    sy_comm *comm;
    sy_device *dev;
    sy_mesh *mesh;
    ckpt_state *s;
} part_of_world;

static sy_status open_mesh(part_of_world *p, int32_t turn)
{
    sy_status st = SY_OK;
    ckpt_field dealt[N_FIELDS];
    sy_mesh_spec spec = {.ep = 1};
    memcpy(dealt, fields, sizeof dealt);
    SY_TRY(test_device_open(&p->dev));
    spec.dev = p->dev;
    SY_TRY(sy_mesh_create(p->comm, &spec, &p->mesh));
    for (int32_t k = 0; k < N_FIELDS; k++) {
        dealt[k].deal = (deal)((k + turn) % N_DEALS);
        dealt[k].dev = (k + turn) % 2 == 0 ? p->dev : NULL;
    }
    SY_TRY(ckpt_open(p->s, dealt, N_FIELDS, p->comm->rank, p->comm->size));
cleanup:
    return st;
}

static void open_part(part_of_world *p, int32_t n, int32_t turn)
{
    sy_comm *world = mpi_test_world();
    memset(p, 0, sizeof *p);
    p->s = calloc(1, sizeof *p->s);
    int32_t color = world->rank < n ? 0 : -1;
    assert_all_ok(sy_comm_split(world, color, world->rank, NULL, "part", &p->comm));
    assert_all_ok(p->comm ? open_mesh(p, turn) : SY_OK);
}

static void close_part(part_of_world *p)
{
    ckpt_close(p->s);
    sy_mesh_destroy(&p->mesh);
    sy_device_close(&p->dev);
    sy_comm_destroy(&p->comm);
    free(p->s);
}

/* As training does it: go on as soon as all is copied, meet when everybody has done its part. */
static sy_status save_beside(part_of_world *p, const char *path)
{
    sy_status st = SY_OK;
    sy_saver_spec spec = {.io = p->mesh->io, .dev = p->dev, .staging_bytes = 8 << 20};
    sy_saver *saver = NULL;
    SY_TRY(sy_saver_create(&spec, &saver));
    SY_TRY(sy_saver_begin(saver, path, &p->s->state));
    sy_saver_wait_copied(saver);
    SY_TRY(ckpt_clear(p->s));
    SY_TRY(sy_saver_finish(saver));
cleanup:
    sy_saver_destroy(&saver);
    return st;
}

static sy_status save(part_of_world *p, const char *path)
{
    sy_status st = SY_OK;
    if (p->comm) {
        SY_TRY(ckpt_fill(p->s));
        SY_TRY(beside ? save_beside(p, path) : sy_checkpoint_save(path, &p->s->state, p->mesh->io));
    }
cleanup:
    return st;
}

static sy_status load(part_of_world *p, const char *path)
{
    return p->comm ? sy_checkpoint_load(path, &p->s->state, SY_LOAD_ALL, p->mesh->io) : SY_OK;
}

static void save_by(int32_t n, int32_t turn, const char *path)
{
    part_of_world p;
    open_part(&p, n, turn);
    assert_all_ok(save(&p, path));
    close_part(&p);
}

/* But for `created`, and the checksum that HDF5 keeps over it. */
static bool saves_are_alike(const char *a, const char *b)
{
    return ckpt_files_are_alike(a, b, CKPT_CREATED_BYTES + CKPT_CHECKSUM_BYTES);
}

static void file_is_the_same_whoever_writes_it(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char one[2 * SCRATCH_PATH], other[2 * SCRATCH_PATH];
    save_by(1, 0, path_of("one.h5", one));
    for (int32_t n = 1; n <= world->size; n++) {
        for (int32_t turn = n > 1 ? 0 : 4; turn < N_DEALS; turn++) {
            save_by(n, turn, path_of("other.h5", other));
            assert_all(world->rank != 0 || saves_are_alike(one, other));
        }
    }
    assert_all_ok(sy_checkpoint_verify(other, world, NULL));
}

static void load_at_another_layout_gives_the_values(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH];
    save_by(world->size, 3, path_of("a.h5", path));
    for (int32_t n = 1; n <= world->size; n++) {
        for (int32_t turn = 0; turn < N_DEALS; turn++) {
            part_of_world p;
            open_part(&p, n, turn);
            assert_all_ok(load(&p, path));
            assert_all(!p.comm || (ckpt_holds(p.s) && p.s->n_restored == 1));
            close_part(&p);
        }
    }
}

/* ---- failures ---- */

static void expect_failed_save(const char *point, int nth)
{
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH], left[2 * SCRATCH_PATH], fault[128], who[32];
    part_of_world p;
    snprintf(fault, sizeof fault, "%s:%d:fail:%d", point, nth, world->size - 1);
    snprintf(who, sizeof who, "'%s'", point);
    open_part(&p, world->size, 3);
    setenv("SY_FAULT", fault, 1);
    assert_all_ok(sy_fault_setup(world->rank));
    sy_status st = save(&p, path_of("new.h5", path));
    assert_all(strstr(sy_error_message(), who) != NULL); /* every rank knows why */
    assert_all_status(st, SY_ERR_IO);
    assert_all(!scratch_exists(path) && !scratch_exists(path_of(".new.h5.tmp", left)));
    assert_all_ok(save(&p, path)); /* the fault has passed: the next one goes through */
    assert_all_ok(sy_checkpoint_verify(path, world, NULL));
    unsetenv("SY_FAULT");
    assert_all_ok(sy_fault_setup(world->rank));
    assert_all(world->rank != 0 || unlink(path) == 0);
    close_part(&p);
}

static void file_written_beside_is_the_same(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char one[2 * SCRATCH_PATH], other[2 * SCRATCH_PATH];
    save_by(world->size, 4, path_of("one.h5", one));
    beside = true;
    for (int32_t turn = 0; turn < N_DEALS; turn++) {
        save_by(world->size, turn, path_of("other.h5", other));
        assert_all(world->rank != 0 || saves_are_alike(one, other));
    }
    beside = false;
}

static void file_written_by_mpi_io_is_the_same(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char one[2 * SCRATCH_PATH], other[2 * SCRATCH_PATH];
    save_by(world->size, 4, path_of("one.h5", one));
    setenv("SY_CHECKPOINT_IO", "mpi", 1);
    for (int32_t turn = 0; turn < 2 * N_DEALS; turn++) {
        beside = turn >= N_DEALS;
        save_by(world->size, turn % N_DEALS, path_of("other.h5", other));
        assert_all(world->rank != 0 || saves_are_alike(one, other));
    }
    expect_failed_save("checkpoint_write", 2);
    expect_failed_save("checkpoint_fsync", 1);
    beside = false;
    unsetenv("SY_CHECKPOINT_IO");
}

static void unknown_way_to_write_fails_the_save(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH];
    part_of_world p;
    open_part(&p, world->size, 0);
    setenv("SY_CHECKPOINT_IO", "tape", 1);
    sy_status st = save(&p, path_of("a.h5", path));
    unsetenv("SY_CHECKPOINT_IO");
    assert_all(strstr(sy_error_message(), "'tape' is not posix or mpi") != NULL);
    assert_all_status(st, SY_ERR_USAGE);
    close_part(&p);
}

static void write_beside_that_fails_on_one_rank_fails_on_all(void **state)
{
    (void)state;
    beside = true;
    expect_failed_save("checkpoint_write", 5);
    expect_failed_save("checkpoint_fsync", 1);
    beside = false;
}

static void write_that_fails_on_one_rank_fails_on_all(void **state)
{
    (void)state;
    expect_failed_save("checkpoint_write", 1);
    expect_failed_save("checkpoint_write", 5);
    expect_failed_save("checkpoint_fsync", 1);
}

static sy_status walk_that_fails_on_the_last(void *self, sy_emit *emit, void *to)
{
    const ckpt_state *s = self;
    sy_status st = ckpt_walk(self, emit, to);
    return st == SY_OK && s->rank == s->size - 1 ? sy_error(SY_ERR_MEMORY, "owner is ill") : st;
}

static sy_status walk_in_another_shape(void *self, sy_emit *emit, void *to)
{
    ckpt_state *s = self;
    s->field[4].shape[0] -= s->rank;
    sy_status st = ckpt_walk(self, emit, to);
    s->field[4].shape[0] += s->rank;
    return st;
}

static void owner_that_fails_on_one_rank_fails_the_save_on_all(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH], left[2 * SCRATCH_PATH];
    part_of_world p;
    open_part(&p, world->size, 0);
    p.s->owner.walk = walk_that_fails_on_the_last;
    assert_all_status(save(&p, path_of("new.h5", path)), SY_ERR_MEMORY);
    p.s->owner.walk = walk_in_another_shape;
    assert_all_status(save(&p, path), world->size > 1 ? SY_ERR_INTERNAL : SY_OK);
    assert_all(world->size == 1 ||
               (!scratch_exists(path) && !scratch_exists(path_of(".new.h5.tmp", left))));
    close_part(&p);
}

static void flip(const char *path, int64_t from_end)
{
    int fd = open(path, O_RDWR);
    unsigned char byte = 0;
    int64_t at = lseek(fd, 0, SEEK_END) - from_end;
    bool ok = pread(fd, &byte, 1, at) == 1;
    byte ^= 0x40;
    ok = ok && pwrite(fd, &byte, 1, at) == 1;
    close(fd);
    if (!ok) {
        abort();
    }
}

/* The end of the file belongs to the moments of the last rows: one rank alone reads them. */
static void damage_that_one_rank_meets_fails_the_load_on_all(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    char path[2 * SCRATCH_PATH];
    part_of_world p;
    save_by(world->size, 0, path_of("a.h5", path));
    if (world->rank == 0) {
        flip(path, 60000);
    }
    open_part(&p, world->size, 1); /* field 5 by rows */
    sy_status st = load(&p, path);
    assert_all(strstr(sy_error_message(), "'/optim/exp_avg/embed' are damaged") != NULL);
    assert_all_status(st, SY_ERR_DAMAGED);
    assert_all(p.s->n_restored == 0);
    st = sy_checkpoint_verify(path, world, NULL);
    assert_all(strstr(sy_error_message(), "'/optim/exp_avg/embed' are damaged") != NULL);
    assert_all_status(st, SY_ERR_DAMAGED);
    assert_all_status(sy_checkpoint_verify("/nowhere/a.h5", world, NULL), SY_ERR_USAGE);
    close_part(&p);
}

static void nothing_is_left_allocated(void **state)
{
    (void)state;
    int64_t before = sy_alloc_live();
    char path[2 * SCRATCH_PATH];
    save_by(mpi_test_world()->size, 2, path_of("a.h5", path));
    assert_all(sy_alloc_live() == before);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_folder, close_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(file_is_the_same_whoever_writes_it),
        CASE(load_at_another_layout_gives_the_values),
        CASE(file_written_beside_is_the_same),
        CASE(file_written_by_mpi_io_is_the_same),
        CASE(unknown_way_to_write_fails_the_save),
        CASE(write_that_fails_on_one_rank_fails_on_all),
        CASE(write_beside_that_fails_on_one_rank_fails_on_all),
        CASE(owner_that_fails_on_one_rank_fails_the_save_on_all),
        CASE(damage_that_one_rank_meets_fails_the_load_on_all),
        CASE(nothing_is_left_allocated),
    };
    return mpi_test_main("checkpoint_reshard", tests, sizeof tests / sizeof tests[0]);
}
