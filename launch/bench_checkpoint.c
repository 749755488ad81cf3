/* Checkpoints beside plain calls: a save beside pwrite and fsync of the same bytes by as many ranks
   at the same offsets, a load and a verification beside pread of the same file, and how long a save
   in the background keeps the training waiting. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/cpu_peak.h"
#include "checkpoint/saver.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "launch/bench_impl.h"
#include "launch/bench_plain_impl.h"
#include "parallel/agree.h"

enum {
    DEFAULT_REPEATS = 7,
    LAYERS = 8,
    TREES = 3,
    FIELDS = LAYERS * TREES,
    COLUMNS = 1024,
    UNIT_BYTES = FIELDS * COLUMNS * 4, /* one row of every field */
    CHUNK_BYTES = 4 << 20,             /* of a reader that keeps nothing */
    NAME_BYTES = 96
};
static const int64_t default_bytes = 512 << 20, smallest_copy = 8 << 20;
static const double step_s = 0.5; /* of what stands for a training step */

typedef struct checkpoint_bench {
    const sy__bench *bench;
    sy_comm *world, *io;
    sy_device *dev;
    sy_stream *stream;
    sy_cpu_peak *peak;
    sy_saver *saver;
    sy_owner owner;
    sy_state state;
    int32_t repeats;
    int64_t part_bytes;      /* of a field, on each rank */
    char *data;              /* [FIELDS * part_bytes] device memory */
    char *path, *plain_path; /* the two files */
    sy__plain plain;
    double save_s; /* median */
    json_t *rows, *stall;
} checkpoint_bench;

typedef sy_status action(checkpoint_bench *b);

static int64_t rank_bytes(const checkpoint_bench *b)
{
    return FIELDS * b->part_bytes;
}

/* ---- what is saved ---- */

/* Experts and their two moments, one part of each on every rank. */
static sy_status walk(void *self, sy_emit *emit, void *to)
{
    static const char *const trees[TREES] = {"model", "optim/exp_avg", "optim/exp_avg_sq"};
    sy_status st = SY_OK;
    const checkpoint_bench *b = self;
    const int64_t rows = b->part_bytes / (COLUMNS * 4);
    for (int32_t f = 0; f < FIELDS; f++) {
        char name[NAME_BYTES];
        sy_part part = {
            .box = {.n_dim = 3, .start = {b->world->rank, 0, 0}, .shape = {1, rows, COLUMNS}},
            .data = b->data + f * b->part_bytes,
            .write = true};
        sy_field field = {.name = name,
                          .dtype = SY_F32,
                          .dev = b->dev,
                          .n_dim = 3,
                          .n_parts = 1,
                          .shape_glb = {b->world->size, rows, COLUMNS},
                          .parts = &part};
        snprintf(name, sizeof name, "%s/layers/%03d/moe/experts/up", trees[f / LAYERS], f % LAYERS);
        SY_TRY(emit(to, &field));
    }
cleanup:
    return st;
}

static sy_status save(checkpoint_bench *b)
{
    return sy_checkpoint_save(b->path, &b->state, b->io);
}

static sy_status load(checkpoint_bench *b)
{
    return sy_checkpoint_load(b->path, &b->state, SY_LOAD_ALL, b->io);
}

static sy_status verify(checkpoint_bench *b)
{
    return sy_checkpoint_verify(b->path, b->io, NULL);
}

static sy_status plain_write(checkpoint_bench *b)
{
    return sy__plain_write(&b->plain);
}

static sy_status plain_load(checkpoint_bench *b)
{
    return sy__plain_read(&b->plain, b->path, b->part_bytes, true);
}

static sy_status plain_verify(checkpoint_bench *b)
{
    return sy__plain_read(&b->plain, b->path, CHUNK_BYTES, false);
}

/* ---- before each ---- */

static sy_status remove_files(checkpoint_bench *b)
{
    if (b->world->rank == 0) {
        unlink(b->path);
        unlink(b->plain_path);
    }
    return SY_OK;
}

static sy_status drop_cache(checkpoint_bench *b)
{
    return sy__plain_drop(b->path);
}

static sy_status leave_cache(checkpoint_bench *b)
{
    (void)b;
    return SY_OK;
}

/* ---- measuring ---- */

/* Seconds on the slowest rank. */
static sy_status timed(checkpoint_bench *b, action *before, action *what, double *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(b->world, before(b)));
    double start = sy_clock_s();
    SY_TRY(what(b));
    *out = sy_clock_s() - start;
    SY_TRY(sy_host_all_reduce(b->world, out, 1, SY_F64, SY_MAX, "bench checkpoint"));
cleanup:
    return st;
}

typedef struct figure {
    const char *name;
    action *before, *ours, *plain;
} figure;

/* Both ways in turn, each the first one in every other turn. */
static sy_status measure(checkpoint_bench *b, const figure *f, double *median_s)
{
    sy_status st = SY_OK;
    double t_ours[SY__MAX_REPEATS], t_plain[SY__MAX_REPEATS];
    const double mb = (double)(b->world->size * rank_bytes(b)) / 1e6;
    for (int32_t i = 0; i < b->repeats; i++) {
        if (i % 2 == 0) {
            SY_TRY(timed(b, f->before, f->ours, &t_ours[i]));
            SY_TRY(timed(b, f->before, f->plain, &t_plain[i]));
        } else {
            SY_TRY(timed(b, f->before, f->plain, &t_plain[i]));
            SY_TRY(timed(b, f->before, f->ours, &t_ours[i]));
        }
    }
    double ours = sy__median(t_ours, b->repeats), plain = sy__median(t_plain, b->repeats);
    json_array_append_new(b->rows,
                          json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "figure", f->name, "s", ours,
                                    "mb_per_s", mb / ours, "plain_s", plain, "plain_mb_per_s",
                                    mb / plain, "percent_of_plain", 100 * plain / ours));
    *median_s = ours;
cleanup:
    return st;
}

/* ---- the stall ---- */

static sy_status run_step(checkpoint_bench *b, int32_t n_products)
{
    sy_status st = SY_OK;
    double ignored;
    for (int32_t i = 0; i < n_products; i++) {
        SY_TRY(sy_cpu_peak_run(b->peak, &ignored));
    }
cleanup:
    return st;
}

/* One step of products on every rank; its seconds are added. */
static sy_status compute(checkpoint_bench *b, int32_t n_products, double *sum_s)
{
    sy_status st = SY_OK;
    const double start = sy_clock_s();
    SY_TRY(sy_agree(b->world, run_step(b, n_products)));
    *sum_s += sy_clock_s() - start;
cleanup:
    return st;
}

static sy_status all_ready(checkpoint_bench *b, bool *out)
{
    sy_status st = SY_OK;
    int32_t n = sy_saver_ready(b->saver);
    SY_TRY(sy_host_all_reduce(b->world, &n, 1, SY_I32, SY_MIN, "bench checkpoint"));
    *out = n != 0;
cleanup:
    return st;
}

typedef struct stall {
    double wait_s, compute_s; /* inside the saver's calls; in steps */
    int32_t n_steps;
} stall;

/* As training does it: the copy beside forward and backward, the rest beside later steps. */
static sy_status save_beside(checkpoint_bench *b, int32_t n_products, stall *out)
{
    sy_status st = SY_OK;
    double start = sy_clock_s();
    bool copied = false, ready = false, finished = false;
    SY_TRY(sy_saver_begin(b->saver, b->path, &b->state));
    while (!finished) {
        out->wait_s += sy_clock_s() - start;
        SY_TRY(compute(b, n_products, &out->compute_s));
        out->n_steps++;
        SY_TRY(all_ready(b, &ready));
        start = sy_clock_s();
        if (!copied) {
            sy_saver_wait_copied(b->saver);
            copied = true;
        }
        if (ready) {
            SY_TRY(sy_saver_advance(b->saver, &finished));
        }
    }
    out->wait_s += sy_clock_s() - start;
cleanup:
    return st;
}

/* How many products a step has, and how long it takes alone. */
static sy_status size_step(checkpoint_bench *b, int32_t *n_products, double *alone_s)
{
    sy_status st = SY_OK;
    double t[SY__MAX_REPEATS] = {0}, one = 0;
    SY_TRY(compute(b, 1, &one));
    one = 0;
    SY_TRY(compute(b, 1, &one));
    SY_TRY(sy_host_all_reduce(b->world, &one, 1, SY_F64, SY_MAX, "bench checkpoint"));
    *n_products = one < step_s ? (int32_t)(step_s / one) : 1;
    for (int32_t i = 0; i < b->repeats; i++) {
        SY_TRY(compute(b, *n_products, &t[i]));
    }
    *alone_s = sy__median(t, b->repeats);
cleanup:
    return st;
}

static sy_status measure_stall(checkpoint_bench *b)
{
    sy_status st = SY_OK;
    double wait[SY__MAX_REPEATS], step[SY__MAX_REPEATS], alone = 0;
    int32_t n_products = 0;
    SY_TRY(size_step(b, &n_products, &alone));
    for (int32_t i = 0; i < b->repeats; i++) {
        stall one = {0};
        SY_TRY(sy_agree(b->world, remove_files(b)));
        SY_TRY(save_beside(b, n_products, &one));
        SY_TRY(sy_host_all_reduce(b->world, &one.wait_s, 1, SY_F64, SY_MAX, "bench checkpoint"));
        wait[i] = one.wait_s;
        step[i] = one.compute_s / one.n_steps;
    }
    double waited = sy__median(wait, b->repeats);
    b->stall =
        json_pack("{s:f, s:f, s:f, s:f, s:f}", "stall_ms", 1e3 * waited, "blocking_ms",
                  1e3 * b->save_s, "percent_of_blocking", 100 * waited / b->save_s, "step_ms",
                  1e3 * sy__median(step, b->repeats), "step_alone_ms", 1e3 * alone);
cleanup:
    return st;
}

/* ---- the run ---- */

static sy_status read_options(checkpoint_bench *b)
{
    sy_status st = SY_OK;
    int64_t bytes = default_bytes;
    SY_TRY(sy_cli_i64(b->bench->cli, "size", UNIT_BYTES, (int64_t)1 << 40, &bytes));
    b->part_bytes = bytes / UNIT_BYTES * (UNIT_BYTES / FIELDS);
cleanup:
    return st;
}

static sy_status check_folder(const char *dir)
{
    sy_status st = SY_OK;
    struct stat info;
    SY_REQUIRE(dir == NULL || (stat(dir, &info) == 0 && S_ISDIR(info.st_mode)), SY_ERR_USAGE,
               "bench checkpoint: --dir '%s' is not a folder", dir);
cleanup:
    return st;
}

static sy_status name_files(checkpoint_bench *b)
{
    sy_status st = SY_OK;
    const char *dir = sy_cli_text(b->bench->cli, "dir");
    int64_t job = getpid();
    SY_TRY(sy_agree(b->world, check_folder(dir)));
    SY_TRY(sy_host_broadcast(b->world, &job, sizeof job, 0, "bench checkpoint"));
    SY_TRY(sy_agree(b->world, sy_asprintf(&b->path, "%s/bench_checkpoint_%" PRId64 ".h5",
                                          dir != NULL ? dir : ".", job)));
    SY_TRY(sy_agree(b->world, sy_asprintf(&b->plain_path, "%s.plain", b->path)));
    b->plain = (sy__plain){
        .world = b->world, .path = b->plain_path, .n_fields = FIELDS, .part_bytes = b->part_bytes};
cleanup:
    return st;
}

static sy_status fill(checkpoint_bench *b)
{
    uint64_t x = (uint64_t)b->world->rank + 1;
    for (int64_t i = 0; i < rank_bytes(b); i += (int64_t)sizeof x) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        memcpy(b->plain.h_data + i, &x, sizeof x);
    }
    return sy_copy_h2d(b->stream, b->data, b->plain.h_data, rank_bytes(b));
}

static sy_status open_all(checkpoint_bench *b)
{
    sy_status st = SY_OK;
    sy_device_spec spec = {.backend = "cpu", .threads = b->bench->threads};
    sy_saver_spec saver = {.io = b->io};
    SY_TRY(sy_device_open(&spec, &b->dev));
    SY_TRY(sy_stream_create(b->dev, "bench", &b->stream));
    SY_TRY(sy_device_alloc(b->dev, rank_bytes(b), SY_MEM_OTHER, (void **)&b->data));
    SY_TRY(sy_alloc(rank_bytes(b), 1, (void **)&b->plain.h_data));
    SY_TRY(fill(b));
    SY_TRY(sy_stream_sync(b->stream));
    SY_TRY(sy_cpu_peak_create(SY_F32, SY__PEAK_N, b->bench->threads, &b->peak));
    saver.dev = b->dev;
    saver.staging_bytes = rank_bytes(b) < smallest_copy ? smallest_copy : rank_bytes(b);
    SY_TRY(sy_saver_create(&saver, &b->saver));
cleanup:
    return st;
}

static void release(checkpoint_bench *b)
{
    sy_saver_destroy(&b->saver);
    sy_cpu_peak_destroy(&b->peak);
    if (b->path != NULL && b->plain_path != NULL) {
        remove_files(b);
    }
    sy_free(&b->plain_path);
    sy_free(&b->path);
    sy_free(&b->plain.h_data);
    if (b->dev != NULL) {
        sy_device_free(b->dev, &b->data);
    }
    sy_stream_destroy(&b->stream);
    sy_device_close(&b->dev);
    sy_comm_destroy(&b->io);
    json_decref(b->stall);
    json_decref(b->rows);
}

static sy_status print(const checkpoint_bench *b)
{
    static const sy__column columns[] = {{"figure", "", 0},
                                         {"s", "s", 3},
                                         {"mb_per_s", "MB/s", 0},
                                         {"plain_s", "plain s", 3},
                                         {"plain_mb_per_s", "plain MB/s", 0},
                                         {"percent_of_plain", "% of plain", 1},
                                         {0}};
    static const sy__column lines[] = {
        {"stall_ms", "save in the background: training waits, ms", 1},
        {"blocking_ms", "save that is waited for, ms", 1},
        {"percent_of_blocking", "the first, % of the second", 1},
        {"step_ms", "step beside a save, ms", 1},
        {"step_alone_ms", "step alone, ms", 1},
        {0}};
    sy_status st = SY_OK;
    json_t *all = NULL;
    if (b->bench->json) {
        all = json_pack("{s:s, s:i, s:I, s:i, s:O, s:O}", "bench", "checkpoint", "ranks",
                        b->world->size, "bytes_per_rank", (json_int_t)rank_bytes(b), "repeats",
                        b->repeats, "figures", b->rows, "stall", b->stall);
        SY_TRY(sy__print_json(all));
    } else {
        printf("checkpoints of %.1f MB from each of %d rank%s, median of %d; plain: pwrite and "
               "fsync, or pread, of the same bytes\n",
               (double)rank_bytes(b) / 1e6, b->world->size, b->world->size == 1 ? "" : "s",
               b->repeats);
        SY_TRY(sy__print_table(columns, b->rows));
        sy__print_record(lines, b->stall);
    }
cleanup:
    json_decref(all);
    return st;
}

sy_status sy__bench_checkpoint(const sy__bench *bench)
{
    static const figure figures[] = {{"save", remove_files, save, plain_write},
                                     {"load, cold", drop_cache, load, plain_load},
                                     {"load, warm", leave_cache, load, plain_load},
                                     {"verify, cold", drop_cache, verify, plain_verify},
                                     {"verify, warm", leave_cache, verify, plain_verify}};
    sy_status st = SY_OK;
    double ignored = 0;
    checkpoint_bench b = {.bench = bench,
                          .world = bench->env->world,
                          .owner = {.name = "bench", .self = &b, .walk = walk},
                          .state = {.owners = &b.owner,
                                    .n_owners = 1,
                                    .kind = "training",
                                    .config_yaml = "run:\n  name: bench\n"},
                          .repeats = bench->repeats > 0 ? bench->repeats : DEFAULT_REPEATS,
                          .rows = json_array()};
    SY_TRY(read_options(&b));
    SY_TRY(sy_comm_split(b.world, 0, b.world->rank, NULL, "io", &b.io));
    SY_TRY(name_files(&b));
    SY_TRY(sy_agree(b.world, open_all(&b)));
    SY_TRY(measure(&b, &figures[0], &b.save_s));
    SY_TRY(save(&b)); /* the last turn may have removed it */
    for (size_t i = 1; i < sizeof figures / sizeof figures[0]; i++) {
        SY_TRY(measure(&b, &figures[i], &ignored));
    }
    SY_TRY(measure_stall(&b));
    if (b.world->rank == 0) {
        SY_TRY(print(&b));
    }
cleanup:
    release(&b);
    return st;
}
