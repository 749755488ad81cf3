/* Megatron's order of samples: numpy's random numbers, the tables of one data set and the blend, by
   golden numbers; and samples read through them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "data/megatron.h"
#include "data/np_random.h"
#include "tests/support/data_files.h"

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

/* np.random.RandomState(1234) */
static void random_numbers_are_those_of_numpy(void **state)
{
    static const uint32_t first[5] = {822569775u, 2137449171u, 2671936806u, 3512589365u,
                                      1880026316u};
    static const int32_t want[10] = {7, 2, 9, 1, 0, 8, 4, 5, 6, 3};
    int32_t a[10];
    int64_t b[10];
    sy_np_random r;
    (void)state;
    sy_np_seed(&r, 1234);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(sy_np_u32(&r), first[i]);
    }
    for (int i = 0; i < 10; i++) {
        a[i] = i;
        b[i] = i;
    }
    sy_np_seed(&r, 1234);
    sy_np_shuffle_i32(&r, a, 10);
    sy_np_seed(&r, 1234);
    sy_np_shuffle_i64(&r, b, 10);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(a[i], want[i]);
        assert_int_equal(b[i], want[i]);
    }
    assert_int_equal(sy_np_interval(&r, 0), 0);
}

/* reference numbers: five documents, two epochs shuffled as one */
static const int32_t golden_lengths[5] = {5, 3, 7, 2, 6};
enum { GOLDEN_S = 4, GOLDEN_WANTED = 9, GOLDEN_SAMPLES = 11, GOLDEN_DOCUMENTS = 10 };
static const int64_t golden_shuffle[GOLDEN_SAMPLES] = {3, 10, 2, 1, 7, 5, 4, 0, 8, 6, 9};

static void tables_are_those_of_megatron(void **state)
{
    static const int32_t documents[GOLDEN_DOCUMENTS] = {2, 2, 4, 1, 0, 3, 4, 0, 1, 3};
    static const int32_t sample[GOLDEN_SAMPLES + 1][2] = {{0, 0}, {0, 4}, {1, 1}, {1, 5},
                                                          {2, 2}, {3, 0}, {4, 1}, {5, 0},
                                                          {6, 2}, {7, 0}, {7, 4}, {9, 0}};
    int32_t document[GOLDEN_DOCUMENTS], offset[GOLDEN_SAMPLES + 1];
    int64_t place[GOLDEN_SAMPLES + 1], shuffle[GOLDEN_SAMPLES];
    sy_megatron_shape shape = sy_megatron_shape_of(5, 23, GOLDEN_S, GOLDEN_WANTED);
    (void)state;
    assert_int_equal(shape.n_epochs, 2);
    assert_false(shape.separate);
    assert_int_equal(shape.n_samples, GOLDEN_SAMPLES);
    sy_megatron_build(&shape, golden_lengths, 5, GOLDEN_S, 1234,
                      &(sy_megatron_tables){document, place, offset, shuffle});
    assert_memory_equal(document, documents, sizeof documents);
    assert_memory_equal(shuffle, golden_shuffle, sizeof golden_shuffle);
    for (int i = 0; i <= GOLDEN_SAMPLES; i++) {
        assert_int_equal(place[i], sample[i][0]);
        assert_int_equal(offset[i], sample[i][1]);
    }
}

static void blend_is_that_of_megatron(void **state)
{
    static const double weight[2] = {0.7, 0.3};
    static const int16_t want[10] = {0, 1, 0, 0, 1, 0, 0, 1, 0, 0};
    static const int64_t number[10] = {0, 0, 1, 2, 1, 3, 4, 2, 5, 6};
    int16_t dataset[10];
    int64_t sample[10];
    (void)state;
    assert_int_equal(sy_megatron_blend_size(weight, 2, 10), 10);
    sy_megatron_blend(weight, 2, 10, dataset, sample);
    assert_memory_equal(dataset, want, sizeof want);
    assert_memory_equal(sample, number, sizeof number);
}

static void split_rounds_halves_to_even(void **state)
{
    static const double share[3] = {969, 30, 1}, half[3] = {1, 1, 0};
    int64_t first, end;
    (void)state;
    sy_megatron_split(1000, share, 0, &first, &end);
    assert_true(first == 0 && end == 969);
    sy_megatron_split(1000, share, 1, &first, &end);
    assert_true(first == 969 && end == 999);
    sy_megatron_split(1000, share, 2, &first, &end);
    assert_true(first == 999 && end == 1000);
    sy_megatron_split(5, half, 0, &first, &end); /* 2.5 */
    assert_int_equal(end, 2);
    sy_megatron_split(7, half, 0, &first, &end); /* 3.5 */
    assert_int_equal(end, 4);
}

/* ---- Megatron-LM's own code ---- */

/* FNV-1a over 64-bit elements. */
static uint64_t fnv_add(uint64_t h, int64_t x)
{
    return (h ^ (uint64_t)x) * UINT64_C(0x100000001b3);
}

static const uint64_t fnv_start = UINT64_C(0xcbf29ce484222325);

/* The rows that tests/parity/make_megatron_order.py prints, which runs Megatron's functions. */
static void tables_have_the_checksums_of_megatron_s_own(void **state)
{
    static const struct {
        int32_t n, S;
        uint32_t seed;
        int64_t wanted, epochs;
        bool separate;
        uint64_t documents, samples, shuffle;
    } cases[] = {
        {1, 8, 1234u, 5, 2, true, 0x08328807b4eb6fed, 0x55cfd1cf2db9e38a, 0x3af0b48aa2ead3b1},
        {5, 4, 1234u, 9, 1, false, 0xa95e132f2b0c05b7, 0x77a9e1c9a49adb7f, 0xfaf96058bf5b0427},
        {40, 16, 0u, 100, 1, false, 0xb1fc2091348b0bd7, 0x1e962bde3ff5142e, 0x8fa44da2a59af34d},
        {40, 16, 1u, 125, 2, true, 0xc0775a580ed7a427, 0x3150d422e11f8439, 0x27401c27ad446fda},
        {40, 16, 2u, 126, 2, true, 0x941487a79457a0f7, 0xa2afe96dae00dd8d, 0x943d97580101c64e},
        {40, 16, 3u, 240, 2, false, 0x3bdd0a089cbff9c7, 0xe1bfbf387d3deb46, 0xb5da477500e7e94e},
        {400, 33, 4294967295u, 1000, 2, true, 0xed02ae363abf4e03, 0x8979270eefd9ffa3,
         0x36819be8637d0964},
        {3000, 128, 1234u, 1100, 1, false, 0x4d61e77183a84c3d, 0x9ceaceaa88f148a4,
         0xec66e124939f6685},
        {3000, 128, 1234u, 1165, 2, true, 0x1cb5ab1d63939d23, 0x3e45384df2f5c7ed,
         0x7c3585431c460e2f},
        {3000, 128, 77u, 5000, 5, true, 0xecfd41e0927c73bd, 0xe210ad4e9e983d74, 0x0abe509709a550da},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        enum { LENGTHS = 3000, ROWS = 20000 };
        static int32_t length[LENGTHS], document[ROWS], offset[ROWS];
        static int64_t place[ROWS], shuffle[ROWS];
        uint64_t documents = fnv_start, samples = fnv_start, order = fnv_start;
        int64_t n_tokens = 0;
        for (int32_t i = 0; i < cases[c].n; i++) {
            length[i] = (int32_t)(1 + ((int64_t)i * 7919 + 13 * (int64_t)cases[c].seed) % 97);
            n_tokens += length[i];
        }
        sy_megatron_shape shape =
            sy_megatron_shape_of(cases[c].n, n_tokens, cases[c].S, cases[c].wanted);
        assert_int_equal(shape.n_epochs, cases[c].epochs);
        assert_int_equal(shape.separate, cases[c].separate);
        assert_true(shape.n_documents <= ROWS && shape.n_samples < ROWS);
        sy_megatron_build(&shape, length, cases[c].n, cases[c].S, cases[c].seed,
                          &(sy_megatron_tables){document, place, offset, shuffle});
        for (int64_t i = 0; i < shape.n_documents; i++) {
            documents = fnv_add(documents, document[i]);
        }
        for (int64_t i = 0; i <= shape.n_samples; i++) {
            samples = fnv_add(fnv_add(samples, place[i]), offset[i]);
        }
        for (int64_t i = 0; i < shape.n_samples; i++) {
            order = fnv_add(order, shuffle[i]);
        }
        assert_true(documents == cases[c].documents);
        assert_true(samples == cases[c].samples);
        assert_true(order == cases[c].shuffle);
    }
}

static void blends_have_the_checksums_of_megatron_s_own(void **state)
{
    static const struct {
        double weight[4];
        int32_t n;
        int64_t size, n_out;
        uint64_t datasets, samples;
    } cases[] = {
        {{0.7, 0.3}, 2, 10, 10, 0xaa559ba17565c108, 0x2d7aa913c240e60f},
        {{1, 2, 3}, 3, 1000, 1001, 0xe455cfd53d6efc39, 0x8d62f0266f9ef039},
        {{0.3, 0.3, 0.4}, 3, 777, 779, 0x0550fc1ab61a3d69, 0x41a66bce56d80440},
        {{5.5, 0.01, 2, 11}, 4, 5000, 5002, 0x317166df7affa1e6, 0x2b7c61d237f8fb81},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        static int16_t dataset[6000];
        static int64_t sample[6000];
        uint64_t datasets = fnv_start, samples = fnv_start;
        const int64_t n = sy_megatron_blend_size(cases[c].weight, cases[c].n, cases[c].size);
        assert_int_equal(n, cases[c].n_out);
        sy_megatron_blend(cases[c].weight, cases[c].n, n, dataset, sample);
        for (int64_t i = 0; i < n; i++) {
            datasets = fnv_add(datasets, dataset[i]);
            samples = fnv_add(samples, sample[i]);
        }
        assert_true(datasets == cases[c].datasets);
        assert_true(samples == cases[c].samples);
    }
}

/* ---- reading ---- */

static sy_token_file *open_file(data_dir *dir, const char *name, int32_t base,
                                const int32_t *lengths, size_t n)
{
    sy_token_file *file = NULL;
    data_write_counting(data_path(dir, name), base, lengths, n);
    assert_int_equal(sy_token_file_open(data_path(dir, name), 0, &file), SY_OK);
    return file;
}

/* Documents begin at tokens 0, 5, 8, 15 and 17, which are their own numbers. */
static void samples_are_cut_from_the_documents(void **state)
{
    static const int32_t want[3][GOLDEN_S + 1] = {/* samples 3, 10, 2 of the golden tables */
                                                  {13, 14, 17, 18, 19},
                                                  {4, 5, 6, 7, 15},
                                                  {9, 10, 11, 12, 13}};
    static const uint8_t want_fresh[3][GOLDEN_S + 1] = {
        {0, 0, 1, 0, 0}, {0, 1, 0, 0, 1}, {0, 0, 0, 0, 0}};
    sy_token_file *file = open_file(*state, "g", 0, golden_lengths, 5);
    const sy_megatron_dataset set = {file, 0, 5, 1};
    for (int again = 0; again < 2; again++) { /* built, then found */
        sy_megatron *m = NULL;
        assert_int_equal(sy_megatron_create(&set, 1, GOLDEN_S, 1234, GOLDEN_WANTED, &m), SY_OK);
        assert_int_equal(sy_megatron_n_samples(m), GOLDEN_SAMPLES);
        for (int k = 0; k < 3; k++) {
            int32_t tokens[GOLDEN_S + 1];
            uint8_t fresh[GOLDEN_S + 1];
            assert_int_equal(sy_megatron_read(m, k, tokens, fresh), SY_OK);
            assert_memory_equal(tokens, want[k], sizeof tokens);
            assert_memory_equal(fresh, want_fresh[k], sizeof fresh);
        }
        sy_megatron_destroy(&m);
    }
    sy_token_file_close(&file);
}

/* Every sample once in each epoch that is whole, of the exposed part alone. */
static void samples_of_a_part_stay_inside_it(void **state)
{
    static const int32_t lengths[8] = {9, 1, 12, 4, 20, 3, 8, 7};
    enum { S = 5, WANTED = 40 };
    sy_token_file *file = open_file(*state, "p", 0, lengths, 8);
    const sy_megatron_dataset set = {file, 2, 6, 1};
    const int32_t low = 10, high = 10 + 12 + 4 + 20 + 3;
    sy_megatron *m = NULL;
    assert_int_equal(sy_megatron_create(&set, 1, S, 7, WANTED, &m), SY_OK);
    assert_true(sy_megatron_n_samples(m) >= WANTED);
    for (int64_t k = 0; k < sy_megatron_n_samples(m); k++) {
        int32_t tokens[S + 1];
        uint8_t fresh[S + 1];
        assert_int_equal(sy_megatron_read(m, k, tokens, fresh), SY_OK);
        for (int i = 0; i <= S; i++) {
            assert_in_range(tokens[i], low, high - 1);
            assert_true(i == 0 || fresh[i] || tokens[i] == tokens[i - 1] + 1);
        }
    }
    sy_megatron_destroy(&m);
    sy_token_file_close(&file);
}

static void blends_read_each_data_set(void **state)
{
    static const int32_t lengths[4] = {9, 11, 12, 14};
    enum { S = 5, WANTED = 20 };
    sy_token_file *a = open_file(*state, "a", 0, lengths, 4);
    sy_token_file *b = open_file(*state, "b", 1000, lengths, 4);
    const sy_megatron_dataset sets[2] = {{a, 0, 4, 3}, {b, 0, 4, 1}};
    sy_megatron *m = NULL;
    int n_b = 0;
    assert_int_equal(sy_megatron_create(sets, 2, S, 1, WANTED, &m), SY_OK);
    assert_int_equal(sy_megatron_n_samples(m), WANTED);
    for (int64_t k = 0; k < WANTED; k++) {
        int32_t tokens[S + 1];
        uint8_t fresh[S + 1];
        assert_int_equal(sy_megatron_read(m, k, tokens, fresh), SY_OK);
        n_b += tokens[0] >= 1000;
    }
    assert_int_equal(n_b, 5);
    sy_megatron_destroy(&m);
    sy_token_file_close(&b);
    sy_token_file_close(&a);
}

static void damaged_tables_are_refused(void **state)
{
    data_dir *dir = *state;
    sy_token_file *file = open_file(dir, "g", 0, golden_lengths, 5);
    const sy_megatron_dataset set = {file, 0, 5, 1};
    sy_megatron *m = NULL;
    uint8_t bytes[4096];
    char path[320] = "";
    assert_int_equal(sy_megatron_create(&set, 1, GOLDEN_S, 1234, GOLDEN_WANTED, &m), SY_OK);
    sy_megatron_destroy(&m);
    DIR *open = opendir(dir->path);
    for (struct dirent *e = readdir(open); e != NULL; e = readdir(open)) {
        if (strstr(e->d_name, ".index") != NULL) {
            snprintf(path, sizeof path, "%s/%s", dir->path, e->d_name);
        }
    }
    closedir(open);
    const size_t n = data_read(path, bytes, sizeof bytes);
    for (size_t at = 64; at < n; at += 4) { /* behind the header */
        uint8_t old[4];
        memcpy(old, bytes + at, 4);
        data_put(bytes, at, 0xfffffff0u + at % 16, 4);
        data_write(path, bytes, n);
        memcpy(bytes + at, old, 4);
        assert_int_equal(sy_megatron_create(&set, 1, GOLDEN_S, 1234, GOLDEN_WANTED, &m), SY_OK);
        for (int64_t k = 0; k < GOLDEN_SAMPLES; k++) {
            int32_t tokens[GOLDEN_S + 1];
            uint8_t fresh[GOLDEN_S + 1];
            (void)sy_megatron_read(m, k, tokens, fresh); /* an error or not: never outside */
            sy_error_clear();
        }
        sy_megatron_destroy(&m);
    }
    data_write(path, bytes, n - 8); /* cut: made anew */
    assert_int_equal(sy_megatron_create(&set, 1, GOLDEN_S, 1234, GOLDEN_WANTED, &m), SY_OK);
    sy_megatron_destroy(&m);
    assert_int_equal(data_read(path, bytes, sizeof bytes), n);
    sy_token_file_close(&file);
}

/* The order for n is compared with that for m where both have samples: sample by sample. */
static void other_numbers_of_samples_keep_the_order_where_it_is_said(void **state)
{
    enum { MOST = 40 };
    sy_token_file *file[2] = {open_file(*state, "g", 0, golden_lengths, 5),
                              open_file(*state, "h", 3, golden_lengths, 5)};
    const sy_megatron_dataset sets[2] = {{file[0], 0, 5, 1}, {file[1], 0, 5, 3}};
    int64_t n_same = 0, n_other = 0;
    int32_t a[GOLDEN_S + 1], b[GOLDEN_S + 1];
    uint8_t fresh[GOLDEN_S + 1];
    for (int32_t n_sets = 1; n_sets <= 2; n_sets++) {
        for (int64_t n = 1; n < MOST; n += 3) {
            for (int64_t m = 1; m < MOST; m += 2) {
                sy_megatron *x = NULL, *y = NULL;
                bool differ = false;
                assert_int_equal(sy_megatron_create(sets, n_sets, GOLDEN_S, 7, n, &x), SY_OK);
                assert_int_equal(sy_megatron_create(sets, n_sets, GOLDEN_S, 7, m, &y), SY_OK);
                for (int64_t k = 0; k < (n < m ? n : m); k++) {
                    assert_int_equal(sy_megatron_read(x, k, a, fresh), SY_OK);
                    assert_int_equal(sy_megatron_read(y, k, b, fresh), SY_OK);
                    differ |= memcmp(a, b, sizeof a) != 0;
                }
                const bool same = sy_megatron_same_order(x, m);
                assert_false(same && differ);
                n_same += same && n != m;
                n_other += !same && differ;
                sy_megatron_destroy(&y);
                sy_megatron_destroy(&x);
            }
        }
    }
    assert_true(n_same > 20 && n_other > 20);
    sy_token_file_close(&file[1]);
    sy_token_file_close(&file[0]);
}

static void what_megatron_cannot_order_is_refused(void **state)
{
    sy_token_file *file = open_file(*state, "g", 0, golden_lengths, 5);
    const sy_megatron_dataset set = {file, 0, 5, 1};
    sy_megatron *m = NULL;
    data_expect_error(sy_megatron_create(&set, 1, GOLDEN_S, UINT64_C(1) << 32, 9, &m), SY_ERR_USAGE,
                      "run.seed", "2^32");
    data_expect_error(sy_megatron_create(&set, 1, GOLDEN_S, 1, INT64_C(1) << 60, &m), SY_ERR_USAGE,
                      "train.steps", "at most");
    sy_token_file_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_are_those_of_numpy),
        cmocka_unit_test(tables_are_those_of_megatron),
        cmocka_unit_test(blend_is_that_of_megatron),
        cmocka_unit_test(tables_have_the_checksums_of_megatron_s_own),
        cmocka_unit_test(blends_have_the_checksums_of_megatron_s_own),
        cmocka_unit_test(split_rounds_halves_to_even),
        cmocka_unit_test_setup_teardown(samples_are_cut_from_the_documents, setup, teardown),
        cmocka_unit_test_setup_teardown(samples_of_a_part_stay_inside_it, setup, teardown),
        cmocka_unit_test_setup_teardown(blends_read_each_data_set, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_tables_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(other_numbers_of_samples_keep_the_order_where_it_is_said,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(what_megatron_cannot_order_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
