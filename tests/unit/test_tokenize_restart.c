/* A tokenize job that is killed and started again, at many moments and with other numbers of
   workers, leaves the files of one that nobody disturbed, and does not begin anew. */
#include "tests/support/data_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>
#include <zstd.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "data/tokenize.h"

enum { N_INPUTS = 3, TEXT_BYTES = 2200000, FILE_MAX = 16 << 20 };

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

/* Lines of words, between which the engine cuts a text; or of JSON, a few of them bad. */
static char *make_text(bool jsonl, size_t *n)
{
    static const char *const words[8] = {"", "t", "the", "\xc3\xa9t", "12", ".", "I'll", "x"};
    char *text = malloc(TEXT_BYTES + 4096);
    uint32_t dice = jsonl ? 3 : 7;
    *n = 0;
    while (*n < TEXT_BYTES) {
        size_t k = (size_t)sprintf(text + *n, jsonl ? "{\"text\": \"" : "");
        dice = dice * 1664525u + 1013904223u;
        for (uint32_t left = dice >> 24; left > 0; left--) {
            dice = dice * 1664525u + 1013904223u;
            k += (size_t)sprintf(text + *n + k, "%s%s", dice & 0x400 ? " " : "  ",
                                 words[dice >> 29]);
        }
        const bool bad = jsonl && dice >> 16 < 64;
        *n += k + (size_t)sprintf(text + *n + k, bad ? "\n" : jsonl ? "\"}\n" : "\n");
    }
    return text;
}

/* The inputs: JSONL, a long text packed by gzip, a long text packed by zstd. */
typedef struct job {
    data_dir *dir;
    char name[N_INPUTS][128], prefix[128];
    const char *inputs[N_INPUTS];
    sy_tokenize_spec spec;
    sy_tokenize_result result;
    int64_t first_done; /* what the first call of progress said */
} job;

static void see_progress(void *arg, int64_t n_done, int64_t n_all, int64_t n_text)
{
    job *j = arg;
    (void)n_text;
    assert_true(n_done <= n_all);
    j->first_done = j->first_done < 0 ? n_done : j->first_done;
}

static void write_inputs(job *j)
{
    static const char *const names[N_INPUTS] = {"a.jsonl", "b.txt.gz", "c.txt.zst"};
    for (int i = 0; i < N_INPUTS; i++) {
        size_t n = 0;
        char *text = make_text(i == 0, &n), *packed = malloc(2 * n);
        snprintf(j->name[i], sizeof j->name[i], "%s/%s", j->dir->path, names[i]);
        j->inputs[i] = j->name[i];
        if (i == 1) {
            gzFile gz = gzopen(j->name[i], "wb1");
            assert_int_equal(gzwrite(gz, text, (unsigned)n), n);
            assert_int_equal(gzclose(gz), Z_OK);
        } else {
            const size_t k = i == 0 ? n : ZSTD_compress(packed, 2 * n, text, n, 1);
            data_write(j->name[i], i == 0 ? text : packed, k);
        }
        free(packed);
        free(text);
    }
}

static void begin(job *j, data_dir *dir, const char *tokenizer)
{
    *j = (job){.dir = dir};
    write_inputs(j);
    j->spec = (sy_tokenize_spec){.inputs = j->inputs,
                                 .n_inputs = N_INPUTS,
                                 .prefix = data_path(dir, "whole"),
                                 .tokenizer = tokenizer,
                                 .append_eod = true,
                                 .skip_bad_lines = true,
                                 .n_workers = 2,
                                 .progress = see_progress,
                                 .progress_arg = j};
    j->first_done = -1;
    assert_int_equal(sy_tokenize(&j->spec, &j->result), SY_OK);
    assert_int_equal(j->first_done, 0);
    assert_true(j->result.n_bad_lines > 0);
    snprintf(j->prefix, sizeof j->prefix, "%s/out", dir->path);
    j->spec.prefix = j->prefix;
    j->spec.journal_s = 1e-9; /* behind every unit */
}

/* The job in a process of its own, which SIGKILL ends at the nth passing of a fault point. */
static void is_killed(job *j, const char *point, int nth)
{
    char fault[64];
    int status = 0;
    snprintf(fault, sizeof fault, "%s:%d:kill", point, nth);
    const pid_t pid = fork();
    if (pid == 0) {
        setenv("SY_FAULT", fault, 1);
        if (sy_fault_setup(0) == SY_OK) {
            (void)sy_tokenize(&j->spec, &j->result);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        fail_msg("%s was not killed", fault);
    }
    assert_int_not_equal(access(data_path(j->dir, "out.idx"), F_OK), 0);
}

static void same_file(data_dir *dir, const char *a, const char *b)
{
    char *bytes[2] = {malloc(FILE_MAX), malloc(FILE_MAX)};
    const int64_t n[2] = {data_read(data_path(dir, a), bytes[0], FILE_MAX),
                          data_read(data_path(dir, b), bytes[1], FILE_MAX)};
    assert_true(n[0] > 1000 && n[0] == n[1]);
    assert_memory_equal(bytes[0], bytes[1], (size_t)n[0]);
    free(bytes[0]);
    free(bytes[1]);
}

/* Start the job once more; its files and figures are those of the one that was not disturbed.
   Returns where it began, in bytes of the inputs. */
static int64_t ends_as_undisturbed(job *j)
{
    static const char *const left[] = {"out.bin.tmp", "out.idx.tmp", "out.doc.tmp",
                                       "out.journal.tmp", "out.journal.tmp.new"};
    const sy_tokenize_result whole = j->result;
    j->first_done = -1;
    assert_int_equal(sy_tokenize(&j->spec, &j->result), SY_OK);
    assert_memory_equal(&j->result, &whole, sizeof whole);
    same_file(j->dir, "out.bin", "whole.bin");
    same_file(j->dir, "out.idx", "whole.idx");
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        assert_int_not_equal(access(data_path(j->dir, left[i]), F_OK), 0);
    }
    assert_int_equal(unlink(data_path(j->dir, "out.bin")), 0);
    assert_int_equal(unlink(data_path(j->dir, "out.idx")), 0);
    return j->first_done;
}

/* The nth unit, its tokens synced, its journal written but not in place: in all inputs. */
static void tokenize_killed_anywhere_goes_on_to_the_same_files(void **state)
{
    static const struct {
        const char *point;
        int nth;
        bool goes_on;
    } cases[] = {{"tokenize.unit", 1, false},   {"tokenize.synced", 1, false},
                 {"tokenize.rename", 1, false}, {"tokenize.rename", 2, true},
                 {"tokenize.unit", 5, true},    {"tokenize.synced", 7, true},
                 {"tokenize.unit", 9, true},    {"tokens.rename", 1, false}};
    job j;
    begin(&j, *state, TOKENIZERS "/gpt2.json");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        j.spec.n_workers = 1 + (int32_t)i % 3;
        is_killed(&j, cases[i].point, cases[i].nth);
        j.spec.n_workers = 3 - (int32_t)i % 3;
        assert_int_equal(ends_as_undisturbed(&j) > 0, cases[i].goes_on);
    }
}

static void tokenize_killed_again_and_again_comes_to_its_end(void **state)
{
    job j;
    begin(&j, *state, "bytes");
    for (int i = 0; i < 4; i++) { /* two units further each time */
        j.spec.n_workers = 1 + i % 2;
        is_killed(&j, i % 2 ? "tokenize.synced" : "tokenize.unit", 3);
    }
    const int64_t from = ends_as_undisturbed(&j);
    struct stat first, second;
    assert_int_equal(stat(j.name[0], &first) + stat(j.name[1], &second), 0);
    assert_true(from > first.st_size + second.st_size); /* it was in the third input */
}

/* What is left of a job that was asked something else, or is not whole, is not gone on from. */
static void tokenize_of_another_order_begins_anew(void **state)
{
    job j;
    char journal[128], bytes[4096];
    begin(&j, *state, "bytes");
    snprintf(journal, sizeof journal, "%s/out.journal.tmp", j.dir->path);
    for (int i = 0; i < 6; i++) {
        is_killed(&j, "tokenize.unit", 5);
        const int64_t n = data_read(journal, bytes, sizeof bytes);
        if (i == 0) {
            j.spec.restart = true;
        } else if (i == 1) { /* the same size at another time */
            const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
            assert_int_equal(utimensat(AT_FDCWD, j.name[2], times, 0), 0);
        } else if (i == 2) {
            bytes[100] ^= 1;
            data_write(journal, bytes, (size_t)n);
        } else if (i == 3) {
            data_write(journal, bytes, (size_t)n - 8);
        } else if (i == 4) {
            assert_int_equal(truncate(data_path(j.dir, "out.bin.tmp"), 1000), 0);
        } else {
            assert_int_equal(truncate(data_path(j.dir, "out.doc.tmp"), 1), 0);
        }
        assert_int_equal(ends_as_undisturbed(&j), 0);
        j.spec.restart = false;
    }
    is_killed(&j, "tokenize.unit", 5);
    j.spec.append_eod = false;
    j.first_done = -1;
    assert_int_equal(sy_tokenize(&j.spec, &j.result), SY_OK);
    assert_int_equal(j.first_done, 0);
}

/* A disk that was full may have room again; a bad line stays one. */
static void tokenize_failing_leaves_its_part_only_where_it_helps(void **state)
{
    job j;
    begin(&j, *state, "bytes");
    sy_tokenize_result result;
    setenv("SY_FAULT", "tokenize.unit:6:fail", 1);
    assert_int_equal(sy_fault_setup(0), SY_OK);
    assert_int_equal(sy_tokenize(&j.spec, &result), SY_ERR_IO);
    sy_error_clear();
    unsetenv("SY_FAULT");
    assert_int_equal(sy_fault_setup(0), SY_OK);
    assert_true(ends_as_undisturbed(&j) > 0);
    is_killed(&j, "tokenize.unit", 5);
    data_write(j.name[2], "no zstd", 7);
    data_expect_error(sy_tokenize(&j.spec, &result), SY_ERR_USAGE, "c.txt.zst", "zstd");
    assert_int_not_equal(access(data_path(j.dir, "out.bin.tmp"), F_OK), 0);
    assert_int_not_equal(access(data_path(j.dir, "out.journal.tmp"), F_OK), 0);
}

/* Stopped between the two renames: the lock must hold until both are done. */
static void tokenize_beside_a_job_that_ends_is_refused_and_harms_nothing(void **state)
{
    job j;
    int status = 0;
    begin(&j, *state, "bytes");
    const pid_t pid = fork();
    if (pid == 0) {
        setenv("SY_FAULT", "tokens.rename:1:stop", 1);
        _exit(sy_fault_setup(0) == SY_OK && sy_tokenize(&j.spec, &j.result) == SY_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    data_expect_error(sy_tokenize(&j.spec, &j.result), SY_ERR_USAGE, "another job", "out.");
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    same_file(j.dir, "out.bin", "whole.bin");
    same_file(j.dir, "out.idx", "whole.idx");
}

static void tokenize_onto_its_own_input_is_refused(void **state)
{
    data_dir *dir = *state;
    const char *input = data_path(dir, "a.bin");
    char got[8];
    sy_tokenize_result result;
    data_write(input, "text", 4);
    const sy_tokenize_spec spec = {
        .inputs = &input, .n_inputs = 1, .prefix = data_path(dir, "a"), .tokenizer = "bytes"};
    data_expect_error(sy_tokenize(&spec, &result), SY_ERR_USAGE, "a.bin", "-o");
    assert_int_equal(data_read(input, got, sizeof got), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tokenize_killed_anywhere_goes_on_to_the_same_files, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_killed_again_and_again_comes_to_its_end, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_of_another_order_begins_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_failing_leaves_its_part_only_where_it_helps, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            tokenize_beside_a_job_that_ends_is_refused_and_harms_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_onto_its_own_input_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
